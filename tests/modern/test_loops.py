"""
Loops: one owner behind a fence, and an end that waits for what was begun.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from modern_fastapi.bell import Bell
from modern_fastapi.loops import tenure
from modern_fastapi.loops.consumer import consume
from modern_fastapi.loops.fence import Fence, Fenced
from modern_fastapi.loops.rescue import is_gone, look, rescue
from modern_fastapi.loops.tenure import hold, keep
from modern_fastapi.schema import Loop, Task
from modern_fastapi.services import Services, start_time
from tests.modern.application import SteppedClock, add, run, running, services, until
from tests.modern.test_rows import claim, row
from tests.modern.test_runner import teach


async def taken(made: Services, name: str, epoch: int | None = None) -> Fence:
    """
    The fence of a loop, ours.
    """
    return await Fence.take(made.database, made.clock, name, made.owner, epoch)


async def loop_row(made: Services, name: str) -> Any:
    """
    What the table says about a loop.
    """
    async with made.database.read() as connection:
        return (await connection.execute(select(Loop.__table__).where(Loop.name == name))).one()


def test_former_owner_is_refused(tmp_path: Path) -> None:
    """
    After the epoch was raised nothing that the old owner writes is committed.

    Seen to fail with the comparison taken out of `Fence.write`.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            old = await taken(made, "consumer", 1)
            await taken(made, "consumer", 2)
            with pytest.raises(Fenced) as refused:
                async with old.write() as connection:
                    await connection.execute(update(Loop).values(state="failed"))
            assert 2 == refused.value.epoch

    run(scenario())


def test_lower_epoch_may_not_begin(tmp_path: Path) -> None:
    """
    Who comes with an epoch that is over is told which one the fence has.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            await taken(made, "consumer", 5)
            with pytest.raises(Fenced) as refused:
                await taken(made, "consumer", 4)
            assert 5 == refused.value.epoch
            assert 5 == (await taken(made, "consumer")).epoch

    run(scenario())


@pytest.mark.parametrize(("ended", "state"), [("cancelled", "stopped"), ("fenced", "fenced"), ("died", "failed")])
def test_loop_says_how_it_ended(tmp_path: Path, ended: str, state: str) -> None:
    """
    /healthz tells the difference between a loop that was stopped, one that lost its fence, and one that died.
    """

    async def body(made: Services, fence: Fence) -> None:
        if ended == "cancelled":
            await asyncio.Event().wait()
        raise Fenced("cleanup", 2, 1) if ended == "fenced" else RuntimeError("dead")

    async def scenario() -> None:
        async with services(tmp_path) as made:
            task = asyncio.get_running_loop().create_task(hold(made, "cleanup", body, 1))

            async def runs() -> bool:
                return (await loop_row(made, "cleanup")).owner is not None

            if ended == "cancelled":
                await until(runs)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert state == (await loop_row(made, "cleanup")).state

    run(scenario())


def test_loop_that_dies_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A loop never dies for good, nor in silence: it begins again after a pause, until it is stopped.
    """
    monkeypatch.setattr(tenure, "FIRST_PAUSE", 0.0)
    begun: list[int] = []
    back = asyncio.Event()

    async def loop(epoch: int | None) -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise RuntimeError("dead")
        back.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        task = asyncio.get_running_loop().create_task(keep(loop, "cleanup"))
        await asyncio.wait_for(back.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    run(scenario())


def test_cancellation_with_a_ring_is_not_lost() -> None:
    """
    A loop that is cancelled in the moment in which its bell rings ends all the same.

    Seen to fail on Python 3.11 with `asyncio.wait_for` in Bell.wait: it returns, and the loop goes on for ever.
    """

    async def scenario() -> None:
        for turns in range(4):
            bell = Bell()
            task = asyncio.get_running_loop().create_task(bell.wait(60.0))
            await asyncio.sleep(0)
            bell.ring()
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                await asyncio.gather(task, return_exceptions=True)
                assert task.cancelled(), turns

    run(scenario())


def test_consumer_gives_back_what_it_cannot_end(tmp_path: Path) -> None:
    """
    A consumer that is stopped gives its tasks the grace time and then gives them back; none is left RUNNING.
    """
    reached = asyncio.Event()

    async def forever(context: Any, params: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with services(tmp_path, grace=0.05) as made:
            teach(made, forever)
            task_id = await add(made, "test", {"a": 1})
            consumer = asyncio.get_running_loop().create_task(hold(made, "consumer", consume))
            await reached.wait()
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
            now = await row(made, task_id)
        assert ("PENDING", None) == (now.status, now.owner)

    run(scenario())


def test_fenced_consumer_ends_without_writing(tmp_path: Path) -> None:
    """
    When another side takes the consumer over, this one's results are refused, and it ends with that.
    """
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: Any, params: Any) -> str:
        reached.set()
        await go_on.wait()
        return "written"

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, slow)
            task_id = await add(made, "test", {"a": 1})
            consumer = asyncio.get_running_loop().create_task(hold(made, "consumer", consume, 1))
            await reached.wait()
            await taken(made, "consumer", 2)
            go_on.set()
            with pytest.raises(Fenced):
                await consumer
            assert ("RUNNING", None) == ((await row(made, task_id)).status, (await row(made, task_id)).result)

    run(scenario())


def test_still_heartbeat_is_rescued_after_the_lease(tmp_path: Path) -> None:
    """
    A row whose heartbeat stands still is put back after the lease by the watcher's own clock, not before.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock, lease=5.0) as made:
            task_id = await add(made)
            await claim(made)
            fence = await taken(made, "rescue")
            seen = await look(made, fence, {})
            clock.step(4.9)
            seen = await look(made, fence, seen)
            assert "RUNNING" == (await row(made, task_id)).status
            clock.step(0.1)
            await look(made, fence, seen)
            now = await row(made, task_id)
        assert ("PENDING", 1) == (now.status, now.rescues)

    run(scenario())


def test_row_of_a_gone_engine_is_adopted(tmp_path: Path) -> None:
    """
    Who changes the engine loses nothing: what waited for the old one goes to the table after a minute.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            task_id = await add(made, engine="celery")
            fence = await taken(made, "rescue")
            for seconds, engine in ((60.0, "celery"), (0.1, "table")):
                clock.step(seconds)
                await look(made, fence, {})
                assert engine == (await row(made, task_id)).engine

    run(scenario())


def test_dead_process_is_seen_at_once() -> None:
    """
    A pid that is gone, or has another process by now, needs no lease.
    """
    assert not is_gone(os.getpid(), start_time(os.getpid()))
    assert is_gone(os.getpid(), "1")
    assert is_gone(2**22 - 1, "1")


def test_dead_process_that_nobody_has_buried_is_gone() -> None:
    """
    A worker's child whose parent died too, where process 1 buries nobody, as in many containers.

    Seen to fail without a look at its state: its rows waited for the lease.
    """
    with subprocess.Popen(["sleep", "60"]) as child:
        started = start_time(child.pid)
        assert not is_gone(child.pid, started)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(child.pid, started)


def test_rescue_runs_in_the_application(tmp_path: Path) -> None:
    """
    A row of a process that is gone ends well in the one that is left.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="consumer,rescue", lease=0.2) as one:
            task_id = await add(one.services, delay=3600.0)
            async with one.services.database.write() as connection:
                await connection.execute(
                    update(Task).where(Task.id == task_id).values(status="RUNNING", owner="gone", attempts=1)
                )
                await connection.execute(update(Task).values(run_at="2026-01-01T00:00:00.000000Z"))
            assert ["SUCCESS"] == await one.ended(task_id)
            assert (2, 1) == (
                (await row(one.services, task_id)).attempts,
                (await row(one.services, task_id)).rescues,
            )

    run(scenario())


def test_health_is_degraded_by_a_loop_that_died(tmp_path: Path) -> None:
    """
    A failed loop, or one whose last tick is old, makes /healthz a 503.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="") as one:
            assert 200 == (await one.client.get("/healthz")).status_code
            async with one.services.database.write() as connection:
                await connection.execute(update(Loop).where(Loop.name == "cleanup").values(state="failed"))
            answer = await one.client.get("/healthz")
        assert (503, "degraded") == (answer.status_code, answer.json()["status"])

    run(scenario())


def test_loops_can_be_taken_out(tmp_path: Path) -> None:
    """
    Whoever embeds the application runs a loop himself, under his epoch; the lifespan leaves it alone.
    """

    async def scenario() -> None:
        async with running(tmp_path, loops="rescue") as one:
            consumer = one.app.state.loops.get("consumer")
            assert consumer is None
        async with services(tmp_path) as made:
            task = asyncio.get_running_loop().create_task(hold(made, "rescue", rescue, 7))

            async def ours() -> bool:
                return 7 == (await loop_row(made, "rescue")).epoch

            await until(ours)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            async with made.database.read() as connection:
                assert 5 == (await connection.execute(select(func.count()).select_from(Loop))).scalar()

    run(scenario())
