"""
The tasks table: who may claim a row, who may end it, and what brings it back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select

from modern_fastapi.schema import Event, Task
from modern_fastapi.services import Services
from modern_fastapi.tasks import limits
from modern_fastapi.tasks.rows import MAX_RESCUES, Claim, TaskRows
from tests.modern.application import SteppedClock, add, run, services


async def claim(made: Services, limit: int = 10, rows: TaskRows | None = None) -> list[Claim]:
    """
    A claim in a transaction of its own.
    """
    async with made.database.write() as connection:
        return await (rows or made.rows).claim(connection, limit)


async def row(made: Services, task_id: str) -> Any:
    """
    A task's row as it is now.
    """
    async with made.database.read() as connection:
        return (await connection.execute(select(Task.__table__).where(Task.id == task_id))).one()


@asynccontextmanager
async def claimed(data: Path, clock: SteppedClock, **more: Any) -> AsyncIterator[tuple[Services, Claim]]:
    """
    One task that runs, or so the table says.
    """
    async with services(data, clock) as made:
        await add(made, **more)
        yield made, (await claim(made))[0]


def test_row_is_claimed_once(tmp_path: Path) -> None:
    """
    Of two processes that ask for the same rows each gets others.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            ids = {await add(made) for _ in range(4)}
            other = TaskRows(made.database, made.clock, "other")
            first = {each.id for each in await claim(made, 3)}
            second = {each.id for each in await claim(made, 3, other)}
        assert (ids, set()) == (first | second, first & second)

    run(scenario())


def test_urgent_and_early_go_first(tmp_path: Path) -> None:
    """
    A higher priority first, then the longest due, then in the order of submission.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            late = await add(made, delay=1.0)
            first = await add(made)
            second = await add(made)
            urgent = await add(made, priority=5)
            assert [urgent, first, second] == [each.id for each in await claim(made)]
            clock.step(1.0)
            assert [late] == [each.id for each in await claim(made)]

    run(scenario())


def test_successor_waits_whatever_the_end(tmp_path: Path) -> None:
    """
    A task that comes after another may start when that one has ended, also where it failed.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            first = await add(made, max_attempts=1)
            second = await add(made, after_id=first)
            held = (await claim(made))[0]
            assert [] == await claim(made)
            async with made.database.write() as connection:
                await made.rows.fail(connection, held, "RuntimeError: no")
            assert [second] == [each.id for each in await claim(made)]

    run(scenario())


def test_key_is_unique(tmp_path: Path) -> None:
    """
    Submitting twice under one key makes one task; the second submission gets its id.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            assert await add(made, key="invoice 7") == await add(made, key="invoice 7")
            assert 1 == len(await claim(made))

    run(scenario())


def test_former_owner_cannot_end_a_row(tmp_path: Path) -> None:
    """
    Who was taken for dead and comes back finds that the row has another attempt: its result is dropped.

    Seen to fail with the attempt left out of the condition: the same process may hold both.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with claimed(tmp_path, clock) as (made, first):
            async with made.database.write() as connection:
                await made.rows.rescue(connection, [(first.id, 1, 0)])
            second = (await claim(made))[0]
            async with made.database.write() as connection:
                assert [first] == await made.rows.succeed(connection, [(first, "stale")])
                assert [] == await made.rows.succeed(connection, [(second, "fresh")])
            assert '"fresh"' == (await row(made, first.id)).result

    run(scenario())


def test_failure_waits_longer_each_time(tmp_path: Path) -> None:
    """
    Retries wait a random time below a bound that doubles, and the last failure is final.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with claimed(tmp_path, clock, max_attempts=3) as (made, held):
            for attempt, bound in ((1, 0.4), (2, 0.8)):
                async with made.database.write() as connection:
                    await made.rows.fail(connection, held, f"RuntimeError: {attempt}")
                now = await row(made, held.id)
                assert ("RETRY", attempt) == (now.status, now.failures)
                assert 0.0 <= made.seconds_until(now.run_at) <= bound
                clock.step(bound)
                held = (await claim(made))[0]
            async with made.database.write() as connection:
                await made.rows.fail(connection, held, "RuntimeError: last")
            now = await row(made, held.id)
        assert ("FAILURE", 3, "RuntimeError: last") == (now.status, now.attempts, now.error)
        assert now.finished_at is not None

    run(scenario())


def test_success_forgets_the_error(tmp_path: Path) -> None:
    """
    What went well in the end shows no error.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with claimed(tmp_path, clock) as (made, held):
            async with made.database.write() as connection:
                await made.rows.fail(connection, held, "RuntimeError: once")
            clock.step(1.0)
            again = (await claim(made))[0]
            async with made.database.write() as connection:
                await made.rows.succeed(connection, [(again, {"n": 1})])
            now = await row(made, held.id)
        assert ("SUCCESS", None, 1.0, {"n": 1}) == (now.status, now.error, now.progress, json.loads(now.result))

    run(scenario())


def test_no_result_is_no_text(tmp_path: Path) -> None:
    """
    A task that gives nothing back leaves its column empty, as the Twisted application does.

    Seen to fail with ``json.dumps`` of everything, which wrote ``null``.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock()) as (made, held):
            async with made.database.write() as connection:
                await made.rows.succeed(connection, [(held, None)])
            now = await row(made, held.id)
        assert ("SUCCESS", None) == (now.status, now.result)

    run(scenario())


def test_cancelled_while_failing_is_not_tried_again(tmp_path: Path) -> None:
    """
    Who asked for the end of a task gets it, although the task failed before it heard.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock()) as (made, held):
            async with made.database.write() as connection:
                assert "RUNNING" == await made.rows.cancel(connection, held.id)
                await made.rows.fail(connection, held, "RuntimeError: no")
            assert "CANCELLED" == (await row(made, held.id)).status

    run(scenario())


def test_task_that_kills_its_process_ends(tmp_path: Path) -> None:
    """
    A row whose process dies time and again is given up at last.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            task_id = await add(made)
            for attempt in range(1, MAX_RESCUES + 1):
                assert [task_id] == [each.id for each in await claim(made)]
                async with made.database.write() as connection:
                    await made.rows.rescue(connection, [(task_id, attempt, 0)])
            now = await row(made, task_id)
        assert ("FAILURE", "the process died 20 times") == (now.status, now.error)

    run(scenario())


def test_rescue_needs_the_same_heartbeat(tmp_path: Path) -> None:
    """
    A heartbeat that came between the look and the write keeps the row where it is.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock()) as (made, held):
            async with made.database.write() as connection:
                assert {held.id: False} == await made.rows.beat(connection, {held.id: 0.5})
                assert ([], []) == await made.rows.rescue(connection, [(held.id, 1, 0)])
            now = await row(made, held.id)
        assert ("RUNNING", 1, 0.5) == (now.status, now.heartbeat, now.progress)

    run(scenario())


def test_beat_tells_who_was_cancelled_and_who_was_lost(tmp_path: Path) -> None:
    """
    One statement renews, and brings back what the runner has to know.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock()) as (made, held):
            async with made.database.write() as connection:
                await made.rows.cancel(connection, held.id)
                assert {held.id: True} == await made.rows.beat(connection, {held.id: 0.0, "lost": 0.0})

    run(scenario())


def test_dead_letter_goes_again(tmp_path: Path) -> None:
    """
    An operator gives a failed task all its attempts again.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock(), max_attempts=1) as (made, held):
            async with made.database.write() as connection:
                await made.rows.fail(connection, held, "RuntimeError: no")
                assert await made.rows.requeue(connection, held.id)
                assert not await made.rows.requeue(connection, held.id)
            assert [(held.id, 0)] == [(each.id, each.failures) for each in await claim(made)]

    run(scenario())


def test_paused_name_does_not_start(tmp_path: Path) -> None:
    """
    A paused name waits, the others go on, and nothing is lost by it.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            paused = await add(made, "api.unstable", {"failures": 0})
            other = await add(made)
            await limits.pause(made.database, "api.unstable")
            assert [other] == [each.id for each in await claim(made)]
            await limits.pause(made.database, "api.unstable", False)
            assert [paused] == [each.id for each in await claim(made)]

    run(scenario())


def test_concurrency_is_limited(tmp_path: Path) -> None:
    """
    No more of a name run at once than allowed; whoever waits behind them is not held up.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            await limits.limit(made.database, "api.unstable", concurrency=2)
            slow = [await add(made, "api.unstable", {"failures": 0}) for _ in range(4)]
            other = await add(made)
            assert [*slow[:2], other] == [each.id for each in await claim(made, 3)]
            assert [] == await claim(made)

    run(scenario())


def test_rate_is_limited(tmp_path: Path) -> None:
    """
    No more of a name start in a second than allowed.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            await limits.limit(made.database, "log.write", rate=2.0)
            ids = [await add(made) for _ in range(5)]
            seen = []
            for _ in range(3):
                seen.append([each.id for each in await claim(made)])
                clock.step(1.0)
        assert [ids[:2], ids[2:4], ids[4:]] == seen

    run(scenario())


def test_one_row_obeys_the_limits_too(tmp_path: Path) -> None:
    """
    An engine that was handed an id claims it only where it may start.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            task_id = await add(made)
            await limits.pause(made.database, "log.write")
            async with made.database.write() as connection:
                assert await made.rows.claim_one(connection, task_id) is None

    run(scenario())


def test_each_change_is_an_event(tmp_path: Path) -> None:
    """
    The database itself writes the history, so that no writer can forget it.
    """

    async def scenario() -> None:
        async with claimed(tmp_path, SteppedClock()) as (made, held):
            async with made.database.write() as connection:
                await made.rows.release(connection, held)
            async with made.database.read() as connection:
                wanted = select(Event.status, Event.attempts).order_by(Event.seq)
                history = [tuple(each) for each in await connection.execute(wanted)]
        assert [("PENDING", 0), ("RUNNING", 1), ("PENDING", 1)] == history

    run(scenario())
