"""
A dry run beside its owner: who waits for whom, and what is told of its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest

from bridge.background import observing
from bridge.background.observing import DryRun, Observation, Owner, unobservable
from bridge.background.pairing import Paired, Verdict


@attrs.define
class Bench:
    """
    An observation whose legacy side is the test.
    """

    owner: Owner | None = None
    judged: list[Paired] = attrs.field(factory=list)

    def attach(self, owner: Owner | None) -> None:
        self.owner = owner

    def observe(self, modern: Callable[..., Any]) -> Observation:
        made = Observation("cleanup", modern, self.attach, self.judged.append)
        made.start()
        return made


def _run(case: Callable[[Bench], Coroutine[Any, Any, None]]) -> Bench:
    bench = Bench()
    asyncio.run(asyncio.wait_for(case(bench), 20))
    return bench


async def echo(epoch: int | None, *, observe: DryRun) -> None:
    assert epoch is None
    async for tick, facts in observe:
        observe(tick, [("row", "x", facts["n"])])


async def waiting(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- what is waited for has no event of its own
        await asyncio.sleep(0)


def test_the_dry_run_looks_before_its_owner_writes():
    """
    Each tick of the owner, the first too, is handed over with its facts; it goes on when the dry run asks for the next.

    Seen to fail for the first tick, with a dry run that had not asked yet being passed over.
    """

    async def case(bench: Bench) -> None:
        observation = bench.observe(echo)
        for number in range(3):
            looked: list[object] = []
            bench.owner.before(str(number), n=number).addCallback(looked.append)
            await waiting(lambda: bool(looked))  # noqa: B023
            bench.owner(str(number), [("row", "x", number)])
        observation.stop()
        await observation.ended(1.0)

    bench = _run(case)

    assert [(str(n), Verdict.SAME) for n in range(3)] == [(each.tick, each.verdict) for each in bench.judged]
    assert bench.owner is None


def test_the_owner_waits_no_longer_than_its_patience(monkeypatch: pytest.MonkeyPatch):
    """
    A dry run that hangs costs its owner one short pause, and from then on nothing.
    """
    monkeypatch.setattr(observing, "PATIENCE", 0.01)

    async def hangs(epoch: int | None, *, observe: DryRun) -> None:
        async for _ in observe:
            await asyncio.Event().wait()

    async def case(bench: Bench) -> None:
        observation = bench.observe(hangs)
        first = bench.owner.before("1")
        await waiting(lambda: first.called)
        assert bench.owner.before("2").called
        observation.stop()
        await observation.ended(1.0)

    _run(case)


def test_stopping_lets_the_owner_go_on():
    """
    Who waits for a dry run that is stopped goes on at once.
    """

    async def slow(epoch: int | None, *, observe: DryRun) -> None:
        async for _ in observe:
            await asyncio.Event().wait()

    async def case(bench: Bench) -> None:
        observation = bench.observe(slow)
        looked = bench.owner.before("1")
        observation.stop()
        assert looked.called
        await observation.ended(1.0)
        assert not observation.running

    _run(case)


def test_a_dry_run_that_dies_says_so_and_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """
    What it raised is in the status and the log; it is tried again after a growing pause.
    """
    monkeypatch.setattr(observing, "_PAUSES", (0.0,))
    ends: list[Exception | None] = [RuntimeError("planted"), None]
    again = asyncio.Event()

    async def dies(epoch: int | None, *, observe: DryRun) -> None:
        if not ends:
            again.set()
            await asyncio.Event().wait()
        error = ends.pop(0)
        if error is not None:
            raise error

    async def case(bench: Bench) -> None:
        observation = bench.observe(dies)
        await again.wait()
        assert (2, "it returned") == (observation.status()["deaths"], observation.status()["error"])
        observation.stop()
        await observation.ended(1.0)

    _run(case)

    assert "its dry run ended: RuntimeError: planted" in caplog.text


def test_ticks_are_told_from_any_thread():
    """
    A loop that works in a thread tells its ticks from there; they are judged on the event loop.
    """

    async def idle(epoch: int | None, *, observe: DryRun) -> None:
        observe("a", [])
        await asyncio.Event().wait()

    async def case(bench: Bench) -> None:
        observation = bench.observe(idle)
        await asyncio.sleep(0)
        thread = threading.Thread(target=bench.owner, args=("a", []))
        thread.start()
        await waiting(lambda: bool(bench.judged))
        thread.join()
        observation.stop()
        await observation.ended(1.0)

    assert [Verdict.SAME] == [each.verdict for each in _run(case).judged]


def test_a_dry_run_that_does_not_end_is_left_behind(caplog: pytest.LogCaptureFixture):
    """
    Its end is waited for within bounds, and named: it writes nothing.
    """
    go_on = asyncio.Event()

    async def stubborn(epoch: int | None, *, observe: DryRun) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async def case(bench: Bench) -> None:
        observation = bench.observe(stubborn)
        await asyncio.sleep(0)
        observation.stop()
        await observation.ended(0.01)
        go_on.set()
        await observation.ended(5.0)

    _run(case)

    assert "its dry run didn't end" in caplog.text


def test_what_is_told_after_the_end_is_dropped():
    """
    A tick that was under way when the observation ended is no evidence.
    """

    async def case(bench: Bench) -> None:
        observation = bench.observe(echo)
        owner = bench.owner
        await asyncio.sleep(0)
        observation.stop()
        await observation.ended(1.0)
        owner("late", [])
        assert owner.before("later").called

    assert [] == _run(case).judged


class _Tells:
    observe = None


async def _plain(epoch: int) -> None: ...


@pytest.mark.parametrize(
    ("modern", "service", "says"),
    [
        (echo, _Tells(), ""),
        (None, _Tells(), "no modern loop"),
        (_plain, _Tells(), "takes no argument `observe`"),
        (echo, object(), "has no attribute `observe`"),
    ],
)
def test_a_loop_that_cannot_be_observed_says_why(modern: Any, service: Any, says: str):
    """
    What is missing, on which side, and what to do.
    """
    found = unobservable(modern, service)

    assert says in found
    assert bool(says) is bool(found)
