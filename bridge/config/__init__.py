"""
bgserver.toml and the options over it, as frozen facts: no file, database, socket or
application is opened or imported here.

- L{facts}: what one server is put together from.
- L{reading}: how the file becomes facts, and how it is refused.
- L{values}: what one value may be.
- L{tables}: how a TOML table is read to its last key.
"""

from bridge.config.facts import (
    AppConfig,
    Config,
    GateConfig,
    LoopConfig,
    RollbackConfig,
    RouteConfig,
    empty_config,
)
from bridge.config.reading import parse_config
from bridge.config.values import BUILT, ENDPOINTS, EVERYTHING, FRONTS, LOOP_STAGES, LOOPS, PROMOTES, state_url

__all__ = [
    "BUILT",
    "ENDPOINTS",
    "EVERYTHING",
    "FRONTS",
    "LOOPS",
    "LOOP_STAGES",
    "PROMOTES",
    "AppConfig",
    "Config",
    "GateConfig",
    "LoopConfig",
    "RollbackConfig",
    "RouteConfig",
    "empty_config",
    "parse_config",
    "state_url",
]
