"""
Which engine the settings name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Engine
from .table import TableEngine

if TYPE_CHECKING:
    from modern_fastapi.services import Services


def make_engine(services: Services) -> Engine:
    """
    The engine that the settings name. Only its own module is imported, so that nobody needs what he doesn't use.
    """
    name = services.settings.engine
    if name == "table":
        return TableEngine(services.bell)
    if name in ("celery", "rq", "dramatiq"):
        from .brokers import make_broker_engine

        return make_broker_engine(services, name)
    from .local import AsyncioEngine, InlineEngine, ThreadEngine

    if name == "inline":
        return InlineEngine(services)
    return AsyncioEngine(services) if name == "asyncio" else ThreadEngine(services)
