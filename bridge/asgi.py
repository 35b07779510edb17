"""
The harness under uvicorn: C{uvicorn bridge.asgi:create_app --factory}.

uvicorn owns the process, the loop and the only listener; the hot road wants
C{--http bridge.web.site_protocol:SiteProtocol}.

Refuses: to decide anything.  L{bridge.compose} does.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bridge.config import BUILT
from bridge.errors import BridgeError
from bridge.policy import find_policy

STARTUP_FAILURE = 3
"""
uvicorn's own exit status where an application doesn't start.
"""


def create_app() -> Any:
    """
    The composed server as one ASGI application, from C{BGSERVER_CONFIG} or
    C{./bgserver.toml}, else the shipped example.

    Called by uvicorn inside its running loop.
    """
    from bridge.loop import install

    try:
        reactor = install()
        from bridge.compose import compose

        config = find_policy(
            config=os.environ.get("BGSERVER_CONFIG"),
            legacy=None,
            modern=None,
            cwd=Path.cwd(),
            example=_example(),
            environ=os.environ,
            built=BUILT,
        )
        return compose(config, reactor, owns_loop=False).composed
    except BridgeError as error:
        logging.getLogger("uvicorn.error").error("bgserver: %s", error)
        raise SystemExit(STARTUP_FAILURE) from None


def _example() -> Path | None:
    # Found, not imported: the harness stands without the plugin.
    spec = find_spec("twistd_plugin")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(folders[0]) / "example.toml" if folders else None
