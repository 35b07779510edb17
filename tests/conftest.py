"""
What every test of the project shares: nothing but how it is run.

Deferred-side tests run on the bridged reactor, every other test outside of any loop: `bridge.testing.plugin` sees to
it, as it does for users.

This module refuses to hold fixtures: they belong to the folder that uses them.
"""

from __future__ import annotations

import functools
import os
import signal
import socket

import pytest

pytest_plugins = ["bridge.testing.plugin"]


def pytest_configure() -> None:
    """
    Ctrl-C means something in the servers that tests start, also where a script runs the tests in the background: a
    shell starts such commands with SIGINT ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    The full counts belong to the long command; what needs a server needs one that runs.
    """
    full = os.environ.get("BGSERVER_LONG") == "1"
    for item in items:
        if item.get_closest_marker("long") is not None and not full:
            item.add_marker(pytest.mark.skip(reason="the full count: set BGSERVER_LONG=1"))
        if full and item.get_closest_marker("timeout") is None:
            # Some count to thousands.
            item.add_marker(pytest.mark.timeout(7200))
        needed = item.get_closest_marker("servers")
        if needed is not None and os.environ.get("BGSERVER_REQUIRE_SERVERS") != "1":
            missing = [name for name in needed.args or _SERVERS if not _listens(name)]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not running here: {', '.join(missing)}"))


_SERVERS = {"postgresql": 5432, "redis": 6379, "rabbitmq": 5672}


@functools.cache
def _listens(server: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", _SERVERS[server]), timeout=1).close()
    except OSError:
        return False
    return True
