"""
What every test of the project shares: nothing but how it is run.

Deferred-side tests (`pytest_twisted.ensureDeferred`, `inlineCallbacks`, `async_fixture` and `async_yield_fixture`)
run on the bridged reactor, which starts when the first of them comes. Every other test runs outside of any loop, and
may call `asyncio.run`. pytest-twisted by itself runs all tests inside its reactor, epoll's unless told otherwise, and
leaves the thread marked as running a loop after the first Deferred.

This module refuses to hold fixtures: they belong to the folder that uses them.
"""

from __future__ import annotations

import asyncio.events
import functools
import os
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Any

import greenlet
import pytest
import pytest_twisted
from twisted.internet import defer


class _LoopGreenlet(greenlet.greenlet):
    """
    Where the reactor runs while a Deferred-side test waits for it.

    asyncio keeps its mark of a running loop by thread, not by greenlet: it is put away whenever the reactor is left
    suspended, and set again when it goes on.
    """

    _suspended: asyncio.AbstractEventLoop | None = None

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        asyncio.events._set_running_loop(self._suspended)
        try:
            return super().switch(*args, **kwargs)
        finally:
            self._suspended = asyncio.events._get_running_loop()
            asyncio.events._set_running_loop(None)


def _finalizer(coroutine: AsyncGenerator[Any, None]) -> Callable[[], None]:
    """
    The end of an async fixture, run wholly inside the loop; pytest-twisted's own begins outside of it.
    """

    async def finish() -> None:
        try:
            await anext(coroutine)
        except StopAsyncIteration:
            return
        raise RuntimeError("an async fixture yields once")

    return lambda: pytest_twisted._run_inline_callbacks(lambda: defer.ensureDeferred(finish()))


class _Deferreds:
    """
    pytest-twisted's hooks, for the functions that are marked as its own, on the bridged reactor.
    """

    def __init__(self) -> None:
        self._started = False

    def _start(self) -> None:
        if self._started:
            return
        from bridge.loop import install

        # pytest-twisted has no seam for a reactor that is already there: its installers build one more to ask that
        # question, and leave its loop open.
        pytest_twisted._instances.reactor = reactor = install()
        pytest_twisted.init_twisted_greenlet()
        pytest_twisted._instances.gr_twisted = _LoopGreenlet(reactor.run)
        pytest_twisted._create_async_yield_fixture_finalizer = _finalizer
        self._started = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Any:
        function = getattr(pyfuncitem.obj, "hypothesis", None)
        function = pyfuncitem.obj if function is None else function.inner_test
        if pytest_twisted._get_mark(function) is None:
            return None
        self._start()
        return pytest_twisted.pytest_pyfunc_call(pyfuncitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Any:
        if pytest_twisted._get_mark(fixturedef.func) is None:
            return None
        self._start()
        return pytest_twisted.pytest_fixture_setup(fixturedef, request)

    def pytest_unconfigure(self) -> None:
        if self._started:
            pytest_twisted.stop_twisted_greenlet()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Deferreds(), "deferreds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    The full counts belong to the long command; what needs a server needs one that runs.
    """
    for item in items:
        if item.get_closest_marker("long") is not None and os.environ.get("BGSERVER_LONG") != "1":
            item.add_marker(pytest.mark.skip(reason="the full count: set BGSERVER_LONG=1"))
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
