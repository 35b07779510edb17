"""
What a modern handler might get past the gate with: each of these goes all the way where the handling is left out.

The requests are real ones through the dispatcher, and the judge, the comparison and the gate's figures are those of a
server; only the time that a stage lasts at least is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from bridge.config import GateConfig
from bridge.dispatch import Dispatcher, Limits, ShadowQueue
from bridge.dispatch.books import Book
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.ledger import Key, Ledger
from bridge.parity import Gate, Redactor, Ruling
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.dispatch.conftest import House, answering

ROUTE = "POST /a"
# As many as pass without a fault, and the first look after.
ENOUGH = 330


@attrs.define
class Clock:
    """
    A clock that stands still, but where a handler takes its time.
    """

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@attrs.define
class Watched:
    """
    A house whose observations are judged.
    """

    house: House
    examiner: Examiner
    clock: Clock

    def ruling(self) -> Ruling:
        return self.examiner.rule(Stage.SHADOW, self.examiner.books[ROUTE], 1.0)

    def counts(self) -> dict[str, int]:
        totals = self.examiner.ledger.totals(Key(ROUTE, "i"))
        return {name.partition(".")[2]: n for name, n in totals.counts.items()}

    async def ask(self, count: int = ENOUGH, method: str = "POST", **kwargs: Any) -> None:
        for _ in range(count):
            await self.house.messages(method, "/a", **kwargs)
            await self.house.shadows.settled()


@pytest.fixture
def watched() -> Callable[..., Watched]:
    def build(legacy: Any = None, modern: Any = None, match: str = ROUTE, limits: Limits | None = None) -> Watched:
        sides = {Side.LEGACY: legacy or answering(b"x"), Side.MODERN: modern or answering(b"x")}
        gate = Gate(GateConfig(floor=0.0))
        route = Route(match, Stage.SHADOW, effects=Effects.NONE)
        books = {route.name: Book(route.name, "i"), ROUTE: Book(ROUTE, "i")}
        examiner = Examiner(books, Ledger(), gate, Redactor(b"k" * 16), None, lambda: 1.0)  # type: ignore[arg-type]
        clock = Clock()
        queue = ShadowQueue(sides, examiner, limits or Limits(), clock=clock, shuffled=lambda runs: None)
        dispatcher = Dispatcher(Cell(RouteTable.build([route])), sides, queue, clock)
        return Watched(House(dispatcher, None), examiner, clock)  # type: ignore[arg-type]

    return build


def test_without_a_fault_it_passes(watched, play):
    """
    The same requests and the same figures let a healthy handler pass.
    """

    async def story():
        w = watched()
        await w.ask()

        assert w.ruling().passing

    play(story())


def test_a_cookie_that_is_set_twice(watched, play):
    """
    Two cookies of one name, for two paths: who sets only the last is told from who sets both.

    Seen to fail with cookies that are kept by their names alone.
    """
    both = [(b"set-cookie", b"sid=1; Path=/"), (b"set-cookie", b"sid=1; Path=/admin")]

    async def story():
        w = watched(answering(b"x", headers=both), answering(b"x", headers=both[1:]))
        await w.ask(20)
        turned = watched(answering(b"x", headers=both), answering(b"x", headers=both[::-1]))
        await turned.ask(20)

        assert w.ruling().rejected
        assert 20 == turned.counts()["same"]

    play(story())


def test_only_the_long_bodies_go_wrong(watched, play):
    """
    What is too long to be shadowed is dropped, and so no pair shows that modern refuses it. The gate holds, where more
    than p1 of the requests can't be compared, and says why.

    Seen to fail with a gate that doesn't look at what was dropped.
    """

    async def refuses(scope, receive, send):
        status = 413 if len((await receive())["body"]) > 100 else 200
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": b"x"})

    async def story():
        w = watched(modern=refuses, limits=Limits(body=100))
        await w.ask(body=[b"short"])
        await w.ask(3, body=[b"long" * 100])
        passes = w.ruling()
        await w.ask(3, body=[b"long" * 100])
        holds = w.ruling()

        assert passes.passing
        assert not holds.passing
        assert holds.why.startswith("6 of 336 requests could not be compared (6: their bodies are too long)")

    play(story())


def test_what_no_judge_can_read(watched, play):
    """
    An answer on which the judge itself fails is no evidence, and doesn't go by uncounted.

    Seen to fail with a judge whose errors are logged alone.
    """

    async def deep(scope, receive, send):
        # Deeper than any version of Python follows: 3.13 compares what is a few thousand deep.
        nested: Any = 1
        for _ in range(100_000):
            nested = [nested]
        scope["extensions"]["bgserver.effects"]("row", "t:1", nested)
        await answering(b"x")(scope, receive, send)

    def now_and_then():
        calls = 0

        async def app(scope, receive, send):
            nonlocal calls
            calls += 1
            await (deep if calls % 20 == 0 else answering(b"x"))(scope, receive, send)

        return app

    async def story():
        w = watched(modern=now_and_then())
        await w.ask(360)

        assert 18 == w.counts()["dropped:unjudged"]
        assert "comparing their answers failed" in w.ruling().why

    play(story())


def test_seldom_and_then_for_long(watched, play):
    """
    Four in a hundred requests take a tenth of a second longer: no fifth of the pairs is slower, and yet clients wait.

    Seen to fail where only the share of slower pairs counts.
    """
    calls = 0

    async def stalls(scope, receive, send):
        nonlocal calls
        calls += 1
        if calls % 25 == 0:
            w.clock.now += 0.11
        await answering(b"x")(scope, receive, send)

    w = watched(modern=stalls)

    async def story():
        await w.ask()

        assert w.ruling().why.startswith("modern keeps clients waiting: in 13 of 330 pairs")

    play(story())


def test_a_body_that_drips(watched, play):
    """
    The head comes at once, and the body takes its time: what lasts is the whole answer.

    Seen to fail where an answer's time is the time to its head.
    """

    async def drips(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        w.clock.now += 0.02
        await send({"type": "http.response.body", "body": b"x"})

    w = watched(modern=drips)

    async def story():
        await w.ask()

        assert w.ruling().why.startswith("modern is slower: in 330 of 330 pairs")

    play(story())


def test_who_left_has_shown_nothing(watched, play):
    """
    Of clients that leave before the end only the beginning is known: where the rest of it differs, or nobody can say,
    that is no pair that counts; where the shadows are the same, it is.

    Seen to fail with a comparison that takes what nobody saw for the same.
    """

    async def breaks(message):
        if message["type"] == "http.response.body":
            raise OSError("gone")

    async def leaves(w):
        for _ in range(20):
            with pytest.raises(OSError):
                await w.house.messages("POST", "/a", send=breaks)
            await w.house.shadows.settled()

    async def gone(scope, receive, send):
        await receive()
        if "bgserver.shadow" not in scope["extensions"]:
            await receive()  # the client has left
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x"})

    async def story():
        same, other = watched(gone), watched(gone, answering(b"y"))
        await leaves(same)
        await leaves(other)

        assert {"same": 20, "noise": 0} == {name: same.counts().get(name, 0) for name in ("same", "noise")}
        assert {"same": 0, "noise": 20} == {name: other.counts().get(name, 0) for name in ("same", "noise")}

    play(story())


def test_head_has_no_body(watched, play):
    """
    An ASGI handler may write a body to a HEAD, which servers leave out; legacy writes none. Nobody gets it, and it is
    no difference; another length in the head is one.

    Seen to fail with a recorder that takes what is written for what is sent.
    """

    def handler(length: bytes, quiet: bool):
        async def app(scope, receive, send):
            headers = [(b"content-length", length)]
            await answering(b"" if quiet and scope["method"] == "HEAD" else b"xyz", headers=headers)(
                scope, receive, send
            )

        return app

    async def story():
        books = {}
        for length in (b"3", b"4"):
            w = watched(handler(b"3", True), handler(length, False), match="GET /a")
            await w.ask(20, "HEAD")
            totals = w.examiner.ledger.totals(Key("GET /a", "i"))
            books[length] = (totals.counts.get("shadow.same", 0), totals.counts.get("shadow.different", 0))

        assert {b"3": (20, 0), b"4": (0, 20)} == books

    play(story())
