"""
What the dispatch tests arrange with: real ASGI applications, called in process, or
standing behind the two roads of a real protocol.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import attrs
import pytest

from bridge.dispatch import Dispatcher, Dropped, Limits, ShadowQueue, Trial
from bridge.routing import Cell, Decision, Route, RouteTable, Side, Stage
from tests.dispatch.straight import Straight


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


def alive(kind: type) -> int:
    """
    How many there are; logs that nobody reads keep some of other tests' errors.
    """
    gc.collect()
    return sum(isinstance(found, kind) for found in gc.get_objects())


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

    def doubts(self, trial: Trial) -> bool:
        return False

    def dropped(self, decision: Decision, why: Dropped) -> None:
        self.drops.append((decision.route.name, why))

    def answered(self, decision: Decision, status: int, seconds: float) -> None:
        self.answers.append((decision.route.name, status))


@attrs.define
class House:
    """
    A dispatcher over two applications, and what a client sees of it.

    @ivar straight: What requests go to; None where the dispatcher is called itself.
    """

    dispatcher: Dispatcher
    bench: Bench
    straight: Straight | None = None

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
        if self.straight is not None:
            return await self.straight.messages(method, path, body, headers, client)
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


def build(
    straight: bool,
    legacy: Any = None,
    modern: Any = None,
    match: str = "GET /a",
    stage: Stage = Stage.SHADOW,
    limits: Limits | None = None,
    replicate: bool = False,
    **route: Any,
) -> House:
    """
    Build a house: two applications, and one route.
    """
    bench = Bench()
    sides = {Side.LEGACY: legacy or answering(b"x"), Side.MODERN: modern or answering(b"x")}
    table = Cell(RouteTable.build([Route(match, stage, **route)]))
    queue = ShadowQueue(sides, bench, limits or Limits(), replicate=replicate, shuffled=lambda runs: None)
    dispatcher = Dispatcher(table, sides, queue)
    return House(dispatcher, bench, Straight(dispatcher) if straight else None)


@pytest.fixture(params=["asgi", "straight"])
def house(request: pytest.FixtureRequest) -> Callable[..., House]:
    """
    Builds a house on either road.
    """
    return functools.partial(build, request.param == "straight")


@pytest.fixture
def asgi_house() -> Callable[..., House]:
    """
    Builds a house whose dispatcher is called itself, for what only ASGI knows.
    """
    return functools.partial(build, False)


@pytest.fixture
def straight_house() -> Callable[..., House]:
    """
    Builds a house whose legacy side never hears of ASGI.
    """
    return functools.partial(build, True)


@pytest.fixture
def play() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """
    Run a coroutine on a loop of its own, and refuse what it left running.
    """

    def run(story: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner() as runner:
            return runner.run(story)

    return run
