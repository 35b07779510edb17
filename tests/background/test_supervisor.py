"""
One loop in one process: started, moved, restarted and given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest

from bridge.background.observing import Observation
from bridge.background.ownership import LoopStage, Step
from bridge.background.runners import ModernRunner
from bridge.background.supervisor import LoopSupervisor
from bridge.errors import StateUnavailableError
from bridge.routing.stage import Side


@attrs.frozen
class _Lease:
    name: str
    holder: str | None
    epoch: int
    renewals: int = 0


@attrs.define
class _Leases:
    """
    A lease table in memory, with the compare-and-swap of the real one, and a switch
    that makes it unreachable.
    """

    row: _Lease | None = None
    gone: bool = False

    def _reach(self) -> None:
        if self.gone:
            raise StateUnavailableError("memory:", "be read", "switched off by the test")

    async def lease(self, name: str) -> _Lease | None:
        self._reach()
        return self.row

    async def acquire(self, name: str, holder: str, seen: _Lease | None, floor: int) -> _Lease | None:
        self._reach()
        if self.row != seen:
            return None
        self.row = _Lease(name, holder, max(seen.epoch if seen else 0, floor) + 1)
        return self.row

    async def renew(self, lease: _Lease) -> _Lease | None:
        self._reach()
        if self.row is None or (self.row.holder, self.row.epoch) != (lease.holder, lease.epoch):
            return None
        self.row = attrs.evolve(self.row, renewals=self.row.renewals + 1)
        return self.row

    async def release(self, lease: _Lease) -> None:
        self._reach()
        if self.row is not None and self.row.epoch == lease.epoch:
            self.row = attrs.evolve(self.row, holder=None)


@attrs.define
class _Loop:
    """
    A runner that notes what happens to it, and ends when the test says so.
    """

    side: Side
    log: list[str]
    drained: asyncio.Event = attrs.field(factory=asyncio.Event)
    started: asyncio.Event = attrs.field(factory=asyncio.Event)
    ended: Callable[[BaseException | None], None] | None = None

    def start(self, epoch: int, ended: Callable[[BaseException | None], None]) -> None:
        self.log.append(f"{self.side.value} starts {epoch}")
        self.ended = ended
        self.started.set()

    async def stop(self) -> None:
        self.log.append(f"{self.side.value} stops")
        await self.drained.wait()
        self.log.append(f"{self.side.value} drained")


@attrs.define
class _Bench:
    """
    One supervisor over two loops, a lease table and a clock, all in the test's hand.
    """

    leases: _Leases = attrs.field(factory=_Leases)
    stage: LoopStage = LoopStage.LEGACY
    now: float = 0.0
    log: list[str] = attrs.field(factory=list)
    drain: float = 30.0
    loops: dict[Side, _Loop] = attrs.field(factory=dict, init=False)
    supervisor: LoopSupervisor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.loops = {side: _Loop(side, self.log) for side in Side}
        for loop in self.loops.values():
            loop.drained.set()
        self.supervisor = self.another("a")

    def another(self, boot: str) -> LoopSupervisor:
        return LoopSupervisor(
            "consumer",
            lambda: self.stage,
            self.loops,
            self.leases,
            boot,
            lambda: self.now,
            drain=self.drain,
        )

    async def settle(self, supervisor: LoopSupervisor | None = None) -> None:
        """
        Steps until there is nothing to do, drains included.
        """
        idle = 0
        while idle < 10:
            idle = idle + 1 if await (supervisor or self.supervisor).step() is Step.WAIT else 0
            await asyncio.sleep(0)


def _run(case: Callable[[_Bench], Coroutine[Any, Any, None]], **given: Any) -> _Bench:
    async def main() -> _Bench:
        bench = _Bench(**given)
        await case(bench)
        return bench

    return asyncio.run(main())


def test_starts_the_side_that_the_stage_names():
    """
    A loop whose lease nobody holds is taken and started, under the first epoch.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()

    assert ["legacy starts 1"] == _run(case).log


def test_a_handoff_drains_before_the_other_side_starts():
    """
    The owner stops, drains, and only then the other side starts, one epoch later.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.loops[Side.LEGACY].drained.clear()
        bench.stage = LoopStage.LIVE
        await bench.settle()
        assert ["legacy starts 1", "legacy stops"] == bench.log
        assert LoopStage.HANDOFF is bench.supervisor.status().stage
        bench.loops[Side.LEGACY].drained.set()
        await asyncio.sleep(0)
        await bench.settle()

    bench = _run(case)

    assert ["legacy starts 1", "legacy stops", "legacy drained", "modern starts 2"] == bench.log
    assert LoopStage.LIVE is bench.supervisor.status().stage


def test_going_back_is_the_same_move():
    """
    Back to legacy costs one epoch more, and nothing else.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.stage = LoopStage.LIVE
        await bench.settle()
        bench.stage = LoopStage.LEGACY
        await bench.settle()

    assert "legacy starts 3" == _run(case).log[-1]


def test_a_tick_that_never_ends_does_not_hold_the_handoff(caplog: pytest.LogCaptureFixture):
    """
    After the drain's time the loop is named in the log and left to its fence.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.loops[Side.LEGACY].drained.clear()
        bench.stage = LoopStage.LIVE
        while "modern starts 2" not in bench.log:
            await bench.settle()

    _run(case, drain=0.001)

    assert "legacy didn't end its tick" in caplog.text


def test_a_start_that_waits_for_a_former_owner_says_so(caplog: pytest.LogCaptureFixture):
    """
    After a crash the lease is still the former process's: one line says who has it and how long that lasts.
    """
    caplog.set_level(logging.INFO, "bridge.background")

    async def case(bench: _Bench) -> None:
        bench.leases.row = _Lease("consumer", "legacy:crashed", 7)
        for _ in range(3):
            await bench.settle()
        assert [] == bench.log
        bench.now += 5.0
        await bench.settle()

    bench = _run(case)

    said = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    assert 1 == len(said)
    assert "consumer waits: legacy:crashed has its lease" in said[0]
    assert said[0].endswith("no sign of life for 5 s")
    assert ["legacy starts 8"] == bench.log


def test_a_free_lease_is_not_waited_for(caplog: pytest.LogCaptureFixture):
    """
    An ordinary start and hand-off say nothing of waiting.
    """
    caplog.set_level(logging.INFO, "bridge.background")

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.stage = LoopStage.LIVE
        await bench.settle()

    _run(case)

    assert "waits" not in caplog.text


def test_two_processes_run_it_once():
    """
    The second process waits while the first renews.
    """

    async def case(bench: _Bench) -> None:
        second = bench.another("b")
        for _ in range(20):
            bench.now += 1.0
            await bench.settle()
            await bench.settle(second)

    assert ["legacy starts 1"] == _run(case).log


def test_a_silent_holder_is_replaced():
    """
    A holder that stops renewing is judged by its renewals, not by anybody's clock.
    """

    async def case(bench: _Bench) -> None:
        second = bench.another("b")
        await bench.settle()
        await bench.settle(second)
        bench.now += 4.9
        await bench.settle(second)
        assert ["legacy starts 1"] == bench.log
        bench.now += 0.2
        await bench.settle(second)

    assert ["legacy starts 1", "legacy starts 2"] == _run(case).log


def test_a_former_owner_that_wakes_up_stops():
    """
    Whoever finds its lease gone stops its loop, and doesn't take the lease back.
    """

    async def case(bench: _Bench) -> None:
        second = bench.another("b")
        await bench.settle()
        await bench.settle(second)
        bench.now += 6
        await bench.settle(second)
        await bench.settle()  # the first wakes up

    bench = _run(case)

    assert ["legacy starts 1", "legacy starts 2", "legacy stops", "legacy drained"] == bench.log
    assert "legacy:b" == bench.leases.row.holder


def test_a_loop_that_dies_is_restarted_with_backoff(caplog: pytest.LogCaptureFixture):
    """
    A dead loop is logged, rests, and starts again; each further death rests longer.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.loops[Side.LEGACY].ended(RuntimeError("boom"))
        await bench.settle()
        assert 1 == len(bench.log)
        bench.now += 0.5
        await bench.settle()
        assert 2 == len(bench.log)
        bench.loops[Side.LEGACY].ended(RuntimeError("boom"))
        bench.now += 0.9
        await bench.settle()
        assert 2 == len(bench.log)
        bench.now += 0.1
        await bench.settle()

    bench = _run(case)

    assert 3 == len(bench.log)
    assert "RuntimeError: boom" == bench.supervisor.status().last_error
    assert "it starts again in 0.5 s" in caplog.text


def test_a_fence_above_the_epoch_is_got_past():
    """
    Where the state was lost, the application's fence stands higher than its epochs.
    The loop's refusal says how high, and the next lease is taken above it.
    """

    class Fenced(Exception):
        epoch = 7

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.loops[Side.LEGACY].ended(Fenced())
        bench.now += 6
        await bench.settle()

    assert "legacy starts 8" == _run(case).log[-1]


def test_an_unreachable_state_stops_nothing(caplog: pytest.LogCaptureFixture):
    """
    Without its database the loop runs on; that is said once, and once when it's back.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.leases.gone = True
        for _ in range(5):
            bench.now += 2
            await bench.settle()
        bench.leases.gone = False
        await bench.settle()

    with caplog.at_level("INFO"):
        bench = _run(case)

    assert ["legacy starts 1"] == bench.log
    assert 1 == caplog.text.count("runs on without its lease")
    assert 1 == caplog.text.count("can be reached again")


def test_holders_renew_on_the_same_beat():
    """
    Loops that began at different times renew together, and the database is opened once for all of them.

    Seen to fail where each counted from its own start: the second was due 0.9 s after the first.
    """

    async def case(bench: _Bench) -> None:
        first = bench.supervisor
        second = attrs.evolve(first, leases=_Leases(), boot="b")
        bench.now = 0.7
        await bench.settle(first)
        bench.now = 1.6
        await bench.settle(second)
        for bench.now in (1.99, 2.01):
            await bench.settle(first)
            await bench.settle(second)
            renewed.append([each._mine.renewals for each in (first, second)])

    renewed: list[list[int]] = []
    _run(case)

    assert [[0, 0], [1, 1]] == renewed


def test_a_holder_sleeps_until_it_renews():
    """
    It is woken for everything else; who waits for a lease, or for the database, must look.

    Seen to fail where a holder looked ten times in its patience, all day, for what a clock could tell it.
    """

    async def case(bench: _Bench) -> None:
        waiting = bench.supervisor._pause()
        await bench.settle()
        holding = bench.supervisor._pause()
        ended = bench.loops[Side.LEGACY].ended
        assert ended is not None
        ended(RuntimeError("first"))
        resting = bench.supervisor._pause()
        bench.leases.gone = True
        bench.now = 3.0
        await bench.settle()
        pauses.extend([waiting, holding, resting, bench.supervisor._pause()])

    pauses: list[float] = []
    _run(case)

    assert [0.5, 2.0, 0.5, 0.5] == [round(pause, 2) for pause in pauses]


def test_closing_drains_and_releases():
    """
    A process that stops gives the lease back, so that the next one need not wait.
    """

    async def case(bench: _Bench) -> None:
        running = asyncio.ensure_future(bench.supervisor.run())
        await asyncio.wait_for(bench.loops[Side.LEGACY].started.wait(), 5)
        bench.supervisor.close()
        await asyncio.wait_for(running, 5)

    bench = _run(case)

    assert ["legacy starts 1", "legacy stops", "legacy drained"] == bench.log
    assert bench.leases.row.holder is None


def test_a_modern_loop_finishes_its_tick_when_it_is_stopped():
    """
    Stopping a modern loop waits until the cancelled task really ended.
    """
    ticks: list[str] = []

    async def loop(epoch: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ticks.append(f"committed under {epoch}")

    async def main() -> None:
        runner = ModernRunner(loop)
        runner.start(4, lambda error: ticks.append("ended by itself"))
        await asyncio.sleep(0)
        await runner.stop()
        ticks.append("stopped")

    asyncio.run(main())

    assert ["committed under 4", "stopped"] == ticks


def test_a_modern_loop_that_returns_or_raises_says_so():
    """
    Its end reaches the supervisor with the error, whichever way it ended.
    """
    ends: list[BaseException | None] = []
    error = RuntimeError("boom")

    async def returning(epoch: int) -> None:
        return None

    async def raising(epoch: int) -> None:
        raise error

    async def main() -> None:
        for loop in (returning, raising):
            ModernRunner(loop).start(1, ends.append)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(main())

    assert [None, error] == ends


def test_an_epoch_is_for_one_start():
    """
    A stage that goes back while its loop drains starts that loop under a new epoch: a thread that outlived the drain
    still bears the old one, and the fence must tell them apart.

    Seen to fail, and ticks to be doubled, where the lease's epoch was used again.
    """

    async def case(bench: _Bench) -> None:
        await bench.settle()
        bench.loops[Side.LEGACY].drained.clear()
        bench.stage = LoopStage.LIVE
        assert Step.STOP is await bench.supervisor.step()
        bench.stage = LoopStage.LEGACY
        while len(bench.log) < 3:
            await bench.settle()

    assert ["legacy starts 1", "legacy stops", "legacy starts 2"] == _run(case, drain=0.001).log


async def _rehearse(epoch: int | None, *, observe: Any) -> None:
    await asyncio.Event().wait()


def _slow_to_end(log: list[str]) -> Any:
    async def rehearse(epoch: int | None, *, observe: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):
                await asyncio.sleep(0)
            log.append("dry run ends")

    return rehearse


def test_the_dry_run_lives_with_the_stage_observe():
    """
    It begins with the stage, beside legacy's loop, and has ended before modern's loop starts.

    Seen to fail with the drain not waiting for it.
    """
    attached: list[bool] = []

    async def case(bench: _Bench) -> None:
        rehearse = _slow_to_end(bench.log)
        observation = Observation("consumer", rehearse, lambda owner: attached.append(owner is not None), print)
        bench.supervisor.observation = observation
        await bench.settle()
        assert not observation.running
        bench.stage = LoopStage.OBSERVE
        await bench.settle()
        assert observation.running
        assert bench.supervisor.status().observed is not None
        bench.stage = LoopStage.LIVE
        while "modern starts 2" not in bench.log:
            await bench.settle()
        assert not observation.running
        assert ["dry run ends", "modern starts 2"] == bench.log[-2:]
        bench.supervisor.close()
        await bench.settle()

    bench = _run(case)

    assert [True, False] == attached
    assert bench.supervisor.status().observed is None


def test_an_observed_loop_begins_observed():
    """
    Where the policy starts at observe, the dry run is there before legacy's first tick.
    """

    async def case(bench: _Bench) -> None:
        told = bench.log.append
        bench.supervisor.observation = Observation("consumer", _rehearse, lambda owner: told("attached"), print)
        await bench.settle()
        bench.supervisor.close()
        await bench.supervisor.run()

    assert ["attached", "legacy starts 1"] == _run(case, stage=LoopStage.OBSERVE).log[:2]


def test_a_loop_that_cannot_be_observed_runs_on(caplog: pytest.LogCaptureFixture):
    """
    A stage that was written where no server could refuse it stops nothing: it is said once, and shown.
    """

    async def case(bench: _Bench) -> None:
        bench.supervisor.unobservable = "It has no dry run."
        for _ in range(3):
            bench.now += 2
            await bench.settle()

    bench = _run(case, stage=LoopStage.OBSERVE)

    assert ["legacy starts 1"] == bench.log
    assert {"error": "It has no dry run."} == bench.supervisor.status().observed
    assert 1 == caplog.text.count("can't be observed")
