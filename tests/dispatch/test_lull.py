"""
What nobody waits for takes the loop when nobody else needs it, and one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from bridge.dispatch.lull import Lull
from bridge.routing import Side
from tests.dispatch.conftest import answering


@attrs.define
class Clock:
    """
    A clock that stands still, but where somebody works.
    """

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    async def works(self, turns: int, seconds: float = 0.001) -> None:
        for _ in range(turns):
            self.now += seconds
            await asyncio.sleep(0)


async def waits(lull: Lull, came: list[str], name: str, then: Callable[[], Awaitable[None]] | None = None) -> None:
    await lull.wait()
    came.append(name)
    if then is not None:
        await then()


def test_work_goes_first(play):
    """
    Whoever works in each turn of the loop is not interrupted; after it a lull has come.
    """

    async def story():
        clock, came = Clock(), []
        waiting = asyncio.create_task(waits(Lull(clock), came, "waited"))
        await clock.works(20)
        came.append("worked")
        await waiting

        assert ["worked", "waited"] == came

    play(story())


def test_many_behind_it_share_its_patience(play):
    """
    Where others can't begin before it, it gives way to a busy loop sooner: a sandbox's writes wait for each other.
    """

    async def story():
        clock = Clock()
        lull = Lull(clock, patience=0.1)
        for behind, turns in ((0, 101), (9, 11)):
            waiting = asyncio.create_task(lull.wait(behind))
            await asyncio.sleep(0)
            await clock.works(turns - 3)
            assert not waiting.done()
            await clock.works(4)
            assert waiting.done()

    play(story())


def test_one_short_turn_is_no_lull(play):
    """
    A request's turns may have a short one between them.
    """

    async def story():
        clock, came = Clock(), []
        waiting = asyncio.create_task(waits(Lull(clock), came, "waited"))
        await asyncio.sleep(0)
        for _ in range(5):
            await clock.works(1)
            await clock.works(1, seconds=0.0)
        came.append("worked")
        await waiting

        assert ["worked", "waited"] == came

    play(story())


def test_patience_ends(play):
    """
    A loop that never comes to rest gives way after a while; and one that turns so slowly that nothing looks short
    does after a number of turns.
    """

    async def story():
        for lull in (Lull(Clock(), patience=0.01), Lull(Clock(), patience=60.0, turns=10)):
            came = []
            waiting = asyncio.create_task(waits(lull, came, "waited"))
            await lull.clock.works(30)

            assert ["waited"] == came
            await waiting

    play(story())


def test_one_at_a_time(play):
    """
    What one does in its lull is work to the next.
    """

    async def story():
        clock, came = Clock(), []
        lull = Lull(clock)

        async def worked():
            await clock.works(5)
            came.append("worked")

        async with asyncio.TaskGroup() as group:
            for name in ("first", "second"):
                group.create_task(waits(lull, came, name, worked))

        assert ["first", "worked", "second", "worked"] == came

    play(story())


def test_shadows_and_judgement_wait_for_lulls(asgi_house, play):
    """
    While clients keep the loop at work no shadow begins, and none is judged; afterwards all are.

    Seen to fail with shadows that begin as soon as there is a slot.
    """

    async def story():
        h = asgi_house(answering(b"x"), answering(b"x"))
        clock = Clock()
        h.shadows.clock = clock
        modern = h.dispatcher.sides[Side.MODERN]
        for _ in range(3):
            await h.get()
        await clock.works(50)
        begun = len(modern.calls)
        await h.shadows.settled()

        assert 0 == begun
        assert (3, 3) == (len(modern.calls), len(h.bench.trials))

    play(story())
