"""
Owns one ASGI application's lifespan: start-up before the first request, shutdown after
the last one, in one task from beginning to end.

Refuses: to start twice, and to hide a failed start.  An application that has no
lifespan is one that raises before it answered; that is no failure.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.logger import Logger

from bridge.errors import LifespanError

App = Callable[..., Awaitable[None]]


class _Phase(enum.Enum):
    NEW = "new"
    UP = "up"
    WITHOUT = "without a lifespan"
    DOWN = "down"


class Lifespan:
    """
    Drives the C{lifespan} of one application, on the running loop.

    @ivar name: Which application this is, for messages.
    """

    _log = Logger()

    def __init__(self, app: App, name: str = "the application") -> None:
        self.app = app
        self.name = name
        self._phase = _Phase.NEW
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {}

    async def startup(self) -> dict[str, Any]:
        """
        Start the application.

        @return: The lifespan state, a shallow copy of which each request gets as
            C{scope["state"]}.
        @raise LifespanError: If it says that it failed, or raises after it began.
        """
        if self._phase is not _Phase.NEW:
            raise RuntimeError(f"{self.name} was started before")
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        self._task = asyncio.ensure_future(self.app(scope, self._inbox.get, self._answers.put))
        answer = await self._ask("startup")
        if answer is None:
            error = self._task.exception()
            if error is None or self._asked:
                # An application that listened and then raised had something to do.
                self._phase = _Phase.DOWN
                raise LifespanError(self.name, "start", _say(error)) from error
            self._phase = _Phase.WITHOUT
            self._log.debug("{name} has no lifespan", name=self.name)
            return self._state
        if answer["type"] != "lifespan.startup.complete":
            self._phase = _Phase.DOWN
            await self._end()
            raise LifespanError(self.name, "start", answer.get("message") or "it gave no reason")
        self._phase = _Phase.UP
        return self._state

    async def shutdown(self) -> None:
        """
        Shut the application down, if it is up.

        @raise LifespanError: If it says that it failed, or raises.
        """
        if self._phase is not _Phase.UP:
            return
        self._phase = _Phase.DOWN
        assert self._task is not None
        answer = await self._ask("shutdown")
        if answer is None:
            error = self._task.exception()
            if error is not None:
                raise LifespanError(self.name, "shut down", _say(error)) from error
            return
        await self._end()
        if answer["type"] != "lifespan.shutdown.complete":
            raise LifespanError(self.name, "shut down", answer.get("message") or "it gave no reason")

    @property
    def _asked(self) -> bool:
        return self._inbox.empty()

    async def _ask(self, what: str) -> dict[str, Any] | None:
        """
        @return: The answer, or None if the application ended without one.
        """
        assert self._task is not None
        self._inbox.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            return None if self._answers.empty() else self._answers.get_nowait()
        finally:
            answer.cancel()

    async def _end(self) -> None:
        """
        Let the application return by itself; what it raises then is only logged.
        """
        assert self._task is not None
        try:
            await self._task
        except Exception:
            self._log.failure("{name} failed after its last word", name=self.name)


def _say(error: BaseException | None) -> str:
    if error is None:
        return "it returned without an answer"
    return f"{type(error).__name__}: {error}"
