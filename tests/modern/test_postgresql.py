"""
What is different on PostgreSQL: rows are claimed side by side, and the database itself rings.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select, text

from modern_fastapi.loops.fence import AlreadyTicked, Fence
from modern_fastapi.schema import Event, Status
from modern_fastapi.services import Services
from modern_fastapi.tasks.rows import NewTask, TaskRows
from tests.contract.postgres import temporary_database
from tests.modern.application import SteppedClock, add, run, running, services

pytestmark = pytest.mark.servers("postgresql")


def test_claims_side_by_side_take_different_rows(tmp_path: Path) -> None:
    """
    However many processes claim at once, each row has one owner, and nobody waits for another's rows.
    """

    async def scenario(url: str) -> None:
        async with services(tmp_path, SteppedClock(), database=url) as made:
            ids = [await add(made) for _ in range(12)]

            async def claimed(number: int) -> list[str]:
                rows = TaskRows(made.database, made.clock, f"process {number}")
                async with made.database.write() as connection:
                    return [each.id for each in await rows.claim(connection, 3)]

            async with asyncio.timeout(20):
                taken = await asyncio.gather(*map(claimed, range(4)))
        assert sorted(ids) == sorted(each for some in taken for each in some)

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))


def test_a_message_that_comes_while_it_is_noted_is_not_refused(tmp_path: Path) -> None:
    """
    A worker is quick: it hears of a row while the relay still notes that it was handed over, which locks the row. It
    waits for that, and has the row.

    Seen to fail where a locked row was passed over: its message was spent, and it waited until the relay missed it.
    """

    async def scenario(url: str) -> None:
        async with services(tmp_path, SteppedClock(), database=url) as made:
            task_id = await add(made, engine="celery")
            async with made.database.write() as connection:
                await made.outbox.handed_over(connection, [(task_id, 0)])
                heard = asyncio.ensure_future(
                    made.database.work(lambda other: made.rows.claim_one(other, task_id)),
                )
                await asyncio.wait({heard}, timeout=0.5)
            claim = await heard
            assert claim is not None
            assert task_id == claim.id

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))


def test_other_process_wakes_the_consumer(tmp_path: Path) -> None:
    """
    A row that another process commits is begun at once, long before the consumer would look.

    Seen to fail (20 s) with `hear_others` left out of the lifespan.
    """

    async def scenario(url: str) -> None:
        async with running(tmp_path / "one", database=url, poll=60.0, loops="consumer") as one:
            async with services(tmp_path / "two", database=url) as other:
                assert [Status.SUCCESS] == await one.ended(await add(other))

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))


def test_events_come_in_the_order_of_commits(tmp_path: Path) -> None:
    """
    D8: an event is numbered when its transaction commits, not when it writes: whoever resumes after the highest number
    that he saw skips nothing. And a transaction that dawdles keeps nobody waiting.

    Seen to fail with triggers that aren't deferred: the second insert waits for the first transaction's end.
    """

    async def scenario(url: str) -> None:
        async with services(tmp_path, database=url) as made:
            async with made.database.write() as slow:
                first = await made.rows.add(slow, NewTask("log.write", {"message": "first"}), "table")
                second = await add(made)
            async with made.database.read() as connection:
                found = await connection.execute(select(Event.task_id).order_by(Event.seq))
            assert [second, first] == [row.task_id for row in found]

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))


def test_two_schedulers_of_one_tick_wait_for_no_deadlock(tmp_path: Path) -> None:
    """
    Of two that begin the same tick at once one does it, and the other one is told that it is done.

    Seen to fail where both shared the fence's row first: PostgreSQL ended one of them, and the tick counted as failed.
    """

    async def scenario(url: str) -> None:
        async with services(tmp_path, SteppedClock(), database=url) as made:
            fences = [await Fence.take(made.database, made.clock, "cleanup", owner, None) for owner in "ab"]
            scheduled = made.clock.now()

            async def late() -> None:
                async with fences[1].tick(scheduled):
                    raise AssertionError("it was done twice")

            async with asyncio.timeout(20):
                async with fences[0].tick(scheduled):
                    other = asyncio.create_task(late())
                    await _waiting_for_a_lock(made)
                with pytest.raises(AlreadyTicked):
                    await other

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))


async def _waiting_for_a_lock(made: Services) -> None:
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    async with made.database.read() as connection:
        while (await connection.execute(waiting)).scalar() is None:  # noqa: ASYNC110 -- PostgreSQL tells nobody
            await asyncio.sleep(0.01)
