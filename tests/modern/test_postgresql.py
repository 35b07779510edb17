"""
What is different on PostgreSQL: rows are claimed side by side, and the database itself rings.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from modern_fastapi.schema import Status
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
    D8: while one transaction has written an event and not committed, no other gets a higher number: whoever resumes
    after the highest that he saw skips nothing.

    Seen to fail with the advisory lock taken out of the trigger: the second insert does not wait.
    """

    async def scenario(url: str) -> None:
        async with services(tmp_path, database=url) as made:
            async with made.database.write() as slow:
                await made.rows.add(slow, NewTask("log.write", {"message": "first"}), "table")
                second = asyncio.get_running_loop().create_task(add(made))
                done, _ = await asyncio.wait([second], timeout=0.3)
                assert not done
            await second

    with temporary_database("postgresql", tmp_path) as url:
        run(scenario(url))
