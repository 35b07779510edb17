"""
Owns running tests that wait for Deferreds on the bridged reactor: `pytest -p bridge.testing.plugin`, or
C{pytest_plugins = ["bridge.testing.plugin"]} in the topmost C{conftest.py} together with C{-p no:twisted}.

Tests and fixtures are marked as pytest-twisted has it (C{ensureDeferred}, C{inlineCallbacks}, C{async_fixture},
C{async_yield_fixture}). The reactor starts with the first of them, and only they run inside it: any other test may call
C{asyncio.run}. Inside an C{ensureDeferred} test, Deferreds are awaited as they are, and coroutines of asyncio through
C{bridge.loop.as_deferred}. C{BGSERVER_TEST_LOOP} names the loop.

Refuses: to let pytest-twisted install a reactor of its own.
"""

from __future__ import annotations

import asyncio.events
import os
from collections.abc import AsyncGenerator, Callable
from typing import Any

import greenlet  # type: ignore[import-untyped]
import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet import defer


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """
    Named with `-p`, this comes before the installed plugins: pytest-twisted is kept out, since it would install epoll's
    reactor and run every test in it.
    """
    pluginmanager.set_blocked("twisted")


def pytest_configure(config: pytest.Config) -> None:
    """
    Take pytest-twisted's place, once.
    """
    if not config.pluginmanager.has_plugin("deferreds"):
        config.pluginmanager.register(BridgedDeferreds(), "deferreds")


class LoopGreenlet(greenlet.greenlet):  # type: ignore[misc]  # no types
    """
    Where the reactor runs while a test waits for it.

    asyncio marks the thread, not the greenlet, as running a loop. The mark goes away with the reactor whenever a test
    runs, and comes back with it.
    """

    _mark: asyncio.AbstractEventLoop | None = None

    def switch(self, *args: Any, **kwargs: Any) -> Any:
        asyncio.events._set_running_loop(self._mark)
        try:
            return super().switch(*args, **kwargs)
        finally:
            self._mark = asyncio.events._get_running_loop()
            asyncio.events._set_running_loop(None)


class BridgedDeferreds:
    """
    pytest-twisted's hooks, for what is marked as its own.
    """

    def __init__(self) -> None:
        self._started = False

    def _start(self) -> None:
        if self._started:
            return
        from bridge.loop import install

        instances = pytest_twisted._instances
        instances.reactor = reactor = install(os.environ.get("BGSERVER_TEST_LOOP", "auto"))
        pytest_twisted.init_twisted_greenlet()
        instances.gr_twisted = LoopGreenlet(reactor.run)
        pytest_twisted._create_async_yield_fixture_finalizer = _fixture_end
        self._started = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Any:
        """
        Run a marked test in the reactor.
        """
        hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
        function = pyfuncitem.obj if hypothesis is None else hypothesis.inner_test
        if pytest_twisted._get_mark(function) is None:
            return None
        self._start()
        return pytest_twisted.pytest_pyfunc_call(pyfuncitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Any:
        """
        Set a marked fixture up in the reactor.
        """
        if pytest_twisted._get_mark(fixturedef.func) is None:
            return None
        self._start()
        return pytest_twisted.pytest_fixture_setup(fixturedef, request)

    def pytest_unconfigure(self) -> None:
        """
        Stop the reactor, if it ran.
        """
        if self._started:
            pytest_twisted.stop_twisted_greenlet()


def _fixture_end(coroutine: AsyncGenerator[Any, None]) -> Callable[[], None]:
    # All of it inside the loop; pytest-twisted's own begins the generator's next step outside.
    async def finish() -> None:
        try:
            await anext(coroutine)
        except StopAsyncIteration:
            return
        raise RuntimeError("an async fixture yields once")

    return lambda: pytest_twisted._run_inline_callbacks(lambda: defer.ensureDeferred(finish()))
