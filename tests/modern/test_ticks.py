"""
Ticking loops: each tick once, an error in one ends nothing, and midnight comes once a day.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import insert, select

from modern_fastapi.loops.cache_refresh import cache_refresh
from modern_fastapi.loops.cleanup import tick as clean_up
from modern_fastapi.loops.daily_report import daily_report, report
from modern_fastapi.loops.fence import AlreadyTicked
from modern_fastapi.loops.tenure import hold
from modern_fastapi.loops.ticks import Portal, slot, tick_in_thread
from modern_fastapi.schema import CacheEntry, Event, Process, Report, Task, Tick
from modern_fastapi.services import Services
from modern_fastapi.tasks.rows import TaskRows
from tests.modern.application import SteppedClock, add, run, services, until
from tests.modern.test_loops import loop_row, taken
from tests.modern.test_rows import claim


def test_tick_happens_once(tmp_path: Path) -> None:
    """
    Of two schedulers only one does a tick, and a tick that broke may be done again.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            fence = await taken(made, "cleanup")
            at = slot(made.clock.now(), 15.0)
            with pytest.raises(RuntimeError):
                async with fence.tick(at):
                    raise RuntimeError("broken")
            async with fence.tick(at):
                pass
            with pytest.raises(AlreadyTicked):
                async with fence.tick(at):
                    raise AssertionError("done twice")
            assert 1 == (await loop_row(made, "cleanup")).ticks

    run(scenario())


def test_error_in_a_tick_is_counted(tmp_path: Path) -> None:
    """
    A tick that raises is logged and counted, and the next one comes.

    L16: LoopingCall would have stopped for good. Seen to fail with `settle` taken out of the loop.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            ticks = asyncio.Queue[int]()
            loop = asyncio.get_running_loop()
            count = 0

            def tick(*_: Any) -> None:
                nonlocal count
                count += 1
                loop.call_soon_threadsafe(ticks.put_nowait, count)
                if count == 1:
                    raise RuntimeError("once")

            fence = await taken(made, "cleanup")
            task = loop.create_task(tick_in_thread(made, fence, 0.05, tick))
            assert [1, 2] == [await ticks.get(), await ticks.get()]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            now = await loop_row(made, "cleanup")
        assert (1, "RuntimeError: once") == (now.errors, now.last_error)

    run(scenario())


def test_stop_waits_for_the_thread(tmp_path: Path) -> None:
    """
    A loop in a thread has ended when its thread has: stopped in the middle of a tick, the tick ends first.

    Source 4's daemon threads are cut in the middle of a write.
    """
    entered, go_on = threading.Event(), threading.Event()

    def tick(*_: Any) -> None:
        entered.set()
        assert go_on.wait(20)

    async def scenario() -> None:
        async with services(tmp_path) as made:
            fence = await taken(made, "cleanup")
            task = asyncio.get_running_loop().create_task(tick_in_thread(made, fence, 3600.0, tick))
            await asyncio.to_thread(entered.wait, 20)
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not task.done()
            go_on.set()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    run(scenario())


def test_cache_holds_the_counts(tmp_path: Path) -> None:
    """
    cache_refresh counts the tasks by their status.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            await add(made)
            await add(made)
            task = asyncio.get_running_loop().create_task(hold(made, "cache_refresh", cache_refresh))

            async def counted() -> bool:
                async with made.database.read() as connection:
                    value = (await connection.execute(select(CacheEntry.value))).scalar()
                return value is not None and {"PENDING": 2} == json.loads(value)

            await until(counted)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scenario())


def test_cleanup_leaves_what_may_be_needed(tmp_path: Path) -> None:
    """
    Only left-overs of an hour's age go: temporary files, and uploads that no row knows.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            old, young = tmp_path / "uploads" / "old", tmp_path / "uploads" / "young.part"
            part = tmp_path / "processed" / "x.part"
            for path in (old, young, part):
                path.write_text("x")
            for path in (old, part):
                os.utime(path, (1, 1))
            fence = await taken(made, "cleanup")
            portal = Portal(asyncio.get_running_loop())
            await asyncio.to_thread(clean_up, made, fence, portal, slot(made.clock.now(), 15.0))
        assert [False, True, False] == [path.exists() for path in (old, young, part)]

    run(scenario())


def test_cleanup_removes_expired_tasks(tmp_path: Path) -> None:
    """
    A finished task goes with its events when it has expired; one that still runs stays.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            gone, kept = await add(made, expires_in=10.0), await add(made, expires_in=10.0)
            async with made.database.write() as connection:
                await made.rows.cancel(connection, gone)
            clock.step(11.0)
            fence = await taken(made, "cleanup")
            portal = Portal(asyncio.get_running_loop())
            await asyncio.to_thread(clean_up, made, fence, portal, slot(clock.now(), 15.0))
            async with made.database.read() as connection:
                assert [kept] == list((await connection.execute(select(Task.id))).scalars())
                assert {kept} == set((await connection.execute(select(Event.task_id))).scalars())

    run(scenario())


def test_cleanup_forgets_dead_processes(tmp_path: Path) -> None:
    """
    A process that was killed leaves a row; it goes when nothing is left of its work. Ours stays.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            async with made.database.write() as connection:
                for boot, pid in (("gone", 2**22 - 1), ("busy", 2**22 - 2)):
                    row = {
                        "boot_id": boot,
                        "host": socket.gethostname(),
                        "pid": pid,
                        "start_time": "1",
                        "side": "modern",
                    }
                    await connection.execute(insert(Process).values(**row, beats=0, started_at=""))
            await add(made)
            await claim(made, rows=TaskRows(made.database, made.clock, "busy"))
            fence = await taken(made, "cleanup")
            portal = Portal(asyncio.get_running_loop())
            await asyncio.to_thread(clean_up, made, fence, portal, slot(made.clock.now(), 15.0))
            async with made.database.read() as connection:
                left = set((await connection.execute(select(Process.boot_id))).scalars())
        assert {"busy", made.boot_id} == left

    run(scenario())


async def reports(made: Services) -> dict[str, Any]:
    """
    All reports by their day.
    """
    async with made.database.read() as connection:
        return {each.day: json.loads(each.body) for each in await connection.execute(select(Report.day, Report.body))}


def test_report_of_a_day(tmp_path: Path) -> None:
    """
    At midnight the day before is counted, and a second scheduler finds it done.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            await add(made)
            fence = await taken(made, "daily_report")
            await report(made, fence)
            assert {} == await reports(made)
            clock.step(12 * 3600.0)
            await add(made)
            await report(made, fence)
            await report(made, fence)
            expected = {"day": "2026-11-21", "tasks": {"PENDING": 1}, "users": 0}
            assert {"2026-11-21": expected} == await reports(made)
            async with made.database.read() as connection:
                assert ["daily_report@2026-11-22T00:00:00.000000Z"] == list(
                    (await connection.execute(select(Tick.key))).scalars()
                )

    run(scenario())


def test_missed_midnight_is_made_up(tmp_path: Path) -> None:
    """
    A server that was down at midnight reports when it starts; of several midnights, the last.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            await add(made)
            clock.step(3 * 86_400.0)
            task = asyncio.get_running_loop().create_task(hold(made, "daily_report", daily_report))

            async def reported() -> bool:
                return {"2026-11-23"} == set(await reports(made))

            await until(reported)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scenario())


def test_every_day_has_one_midnight() -> None:
    """
    The clock is UTC's: where the local one jumps in March and October, a day is still a day.
    """
    trigger = CronTrigger(hour=0, minute=0, timezone=UTC)
    for month, day in ((3, 28), (10, 24)):
        fire = datetime(2026, month, day, 12, tzinfo=UTC)
        for _ in range(3):
            following = trigger.get_next_fire_time(fire, fire + timedelta(seconds=1))
            assert (0, 0) == (following.hour, following.minute)
            assert following - fire <= timedelta(days=1)
            fire = following
