"""
What the dispatch tests arrange with: real ASGI applications, called in process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import attrs
import pytest

from bridge.dispatch import Dispatcher, Dropped, Limits, ShadowQueue, Trial
from bridge.routing import Cell, Decision, Route, RouteTable, Side, Stage


def answering(body: bytes, status: int = 200, headers: list | None = None):
    """
    An application that reads the body, and answers with one of its own.
    """

    async def app(scope, receive, send):
        app.calls.append(scope)
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": list(headers or [])})
        await send({"type": "http.response.body", "body": body})

    app.calls = []
    return app


@attrs.define
class Bench:
    """
    A judge that writes down what it hears.
    """

    trials: list[Trial] = attrs.field(factory=list)
    drops: list[tuple[str, Dropped]] = attrs.field(factory=list)
    answers: list[tuple[str, int]] = attrs.field(factory=list)
    heard: asyncio.Event = attrs.field(factory=asyncio.Event)

    def judge(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.heard.set()

    async def hear(self, count: int = 1) -> None:
        """
        Wait until that many trials were judged.
        """
        while len(self.trials) < count:
            self.heard.clear()
            await self.heard.wait()

    def dropped(self, decision: Decision, why: Dropped) -> None:
        self.drops.append((decision.route.name, why))

    def answered(self, decision: Decision, status: int, seconds: float) -> None:
        self.answers.append((decision.route.name, status))


@attrs.define
class House:
    """
    A dispatcher over two applications, and what a client sees of it.
    """

    dispatcher: Dispatcher
    bench: Bench

    @property
    def shadows(self) -> ShadowQueue:
        return self.dispatcher.shadows

    async def get(self, path: str = "/a", **kwargs: Any) -> tuple[int, bytes]:
        sent = await self.messages("GET", path, **kwargs)
        return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])

    async def messages(
        self,
        method: str,
        path: str,
        body: list[bytes] = [b""],  # noqa: B006 - never changed
        headers: list = [],  # noqa: B006 - never changed
        send: Callable[[Any], Awaitable[None]] | None = None,
        client: str = "192.0.2.1",
    ) -> list[dict]:
        sent: list[dict] = []
        parts = list(body)

        async def receive():
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            return {"type": "http.disconnect"}

        async def keep(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": (client, 1234),
            "server": ("127.0.0.1", 80),
        }
        await self.dispatcher(scope, receive, send or keep)
        return sent


@pytest.fixture
def house() -> Callable[..., House]:
    """
    Build a house: two applications, and one route.
    """

    def build(
        legacy: Any = None,
        modern: Any = None,
        match: str = "GET /a",
        stage: Stage = Stage.SHADOW,
        limits: Limits | None = None,
        replicate: bool = False,
        **route: Any,
    ) -> House:
        bench = Bench()
        sides = {Side.LEGACY: legacy or answering(b"x"), Side.MODERN: modern or answering(b"x")}
        table = Cell(RouteTable.build([Route(match, stage, **route)]))
        queue = ShadowQueue(sides, bench, limits or Limits(), replicate=replicate, shuffled=lambda runs: None)
        return House(Dispatcher(table, sides, queue), bench)

    return build


@pytest.fixture
def play() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """
    Run a coroutine on a loop of its own, and refuse what it left running.
    """

    def run(story: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(story)

    return run
