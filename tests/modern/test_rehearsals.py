"""
Dry runs of the loops: what they tell is what the loop then does, and they can't do it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from modern_fastapi.app import BODIES, create_app
from modern_fastapi.loops import cache_refresh, cleanup
from modern_fastapi.loops.daily_report import last_midnight, report
from modern_fastapi.loops.rehearsal import LookOnly, WritesInRehearsal, rehearse
from modern_fastapi.loops.rescue import look
from modern_fastapi.loops.ticks import Portal, slot
from modern_fastapi.schema import CacheEntry, Report, Task, Tick, User
from modern_fastapi.services import Services
from modern_fastapi.tasks.limits import pause
from tests.contract.postgres import temporary_database
from tests.modern.application import SteppedClock, add, run, services
from tests.modern.test_loops import taken
from tests.modern.test_rows import claim

Effects = list[tuple[str, str, Any]]
KEY = "tick"


@attrs.define
class Asking:
    """
    Whoever compares: hands these ticks over, and keeps what is told.
    """

    ticks: Iterable[Mapping[str, Any]]
    told: dict[str, Effects] = attrs.field(factory=dict)
    heard: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __call__(self, tick: str, effects: Iterable[tuple[str, str, Any]]) -> None:
        self.told[tick] = list(effects)
        self.heard.set()

    async def __aiter__(self) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        for facts in self.ticks:
            yield KEY, facts


async def told(made: Services, name: str, *ticks: Mapping[str, Any]) -> Effects:
    """
    What a dry run says to these ticks, the last time.
    """
    asking = Asking(ticks or [{}])
    await rehearse(made, BODIES[name][1], asking)
    return asking.told.get(KEY, [])


async def rows_of(made: Services, column: Any) -> list[Any]:
    async with made.database.read() as connection:
        return list((await connection.execute(select(column))).scalars())


def test_cache_refresh_says_what_it_then_writes(tmp_path: Path) -> None:
    """
    The counts of the dry run are those of the tick.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            await add(made)
            said = await told(made, "cache_refresh")
            assert [] == await rows_of(made, CacheEntry.value)
            fence = await taken(made, "cache_refresh")
            portal = Portal(asyncio.get_running_loop())
            await asyncio.to_thread(cache_refresh.tick, made, fence, portal, slot(made.clock.now(), 10.0))
            [written] = await rows_of(made, CacheEntry.value)
            assert [("row", "cache:tasks", json.loads(written))] == said

    run(scenario())


def test_cleanup_says_what_it_then_removes(tmp_path: Path) -> None:
    """
    Expired rows, old ticks and left-over files are named, and are there until the tick itself.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            expired = await add(made)
            await add(made)
            async with made.database.write() as connection:
                gone = {"status": "SUCCESS", "expires_at": "2026-01-01T00:00:00.000000Z"}
                await connection.execute(update(Task).where(Task.id == expired).values(**gone))
                await connection.execute(
                    insert(Tick).values(key="old", loop="x", owner="y", epoch=0, committed_at="2026-01-01")
                )
            old = time.time() - 7200
            for name in ("orphan", "half.part"):
                path = made.files.path("uploads") / name
                path.write_text("x")
                os.utime(path, (old, old))

            said = await told(made, "cleanup", {"now": made.clock.now(), "oldest": time.time() - 3600})

            names = [f"row tasks:{expired}", "row ticks:old", "file uploads/half.part", "file uploads/orphan"]
            assert sorted(names) == sorted(f"{kind} {key}" for kind, key, _ in said)
            assert 2 == len(await rows_of(made, Task.id))
            assert 2 == len(list(made.files.path("uploads").iterdir()))
            fence = await taken(made, "cleanup")
            portal = Portal(asyncio.get_running_loop())
            await asyncio.to_thread(cleanup.tick, made, fence, portal, slot(made.clock.now(), 15.0))
            assert 1 == len(await rows_of(made, Task.id))
            assert "old" not in await rows_of(made, Tick.key)
            assert [] == list(made.files.path("uploads").iterdir())

    run(scenario())


def test_daily_report_says_what_it_then_writes(tmp_path: Path) -> None:
    """
    By its own midnights: the one that was missed is told at the start.
    """

    async def scenario() -> None:
        async with services(tmp_path, SteppedClock()) as made:
            asking = Asking([])
            async with made.database.write() as connection:
                await connection.execute(
                    insert(User).values(user_id="1", email="a", email_key="a", name="A", created_at="2026-11-20")
                )
            task = asyncio.get_running_loop().create_task(rehearse(made, BODIES["daily_report"][1], asking))
            await asyncio.wait_for(asking.heard.wait(), 20)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert [] == await rows_of(made, Report.body)
            await report(made, await taken(made, "daily_report"))
            [written] = await rows_of(made, Report.body)
            key = f"daily_report@{last_midnight(made.clock.now()).strftime('%Y-%m-%dT%H:%M:%S.000000Z')}"
            assert {key: [("row", "reports:2026-11-20", json.loads(written))]} == asking.told

    run(scenario())


def test_consumer_says_what_a_claim_would_take(tmp_path: Path) -> None:
    """
    In the claim's own order, within its limit, without what is paused or came later; nothing is taken.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            await add(made, "paused")
            await pause(made.database, "paused")
            low, high, last = await add(made), await add(made, priority=5), await add(made)
            until = (await rows_of(made, Task.run_at))[0]
            clock.step(1.0)
            await add(made)

            said = await told(made, "consumer", {"limit": 2, "until": until})
            more = await told(made, "consumer", {"limit": 9, "until": until})

            assert [high, low] == [key.removeprefix("tasks:") for _, key, _ in said]
            assert [high, low, last] == [key.removeprefix("tasks:") for _, key, _ in more]
            assert ("claim", f"tasks:{high}", {"name": "log.write", "attempt": 1}) == said[0]
            assert {"PENDING"} == set(await rows_of(made, Task.status))

    run(scenario())


def test_rescue_says_what_it_would_put_back(tmp_path: Path) -> None:
    """
    By the owner's clock, once it has watched for as long as a lease; the row stays as it is.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock, lease=5.0) as made:
            task_id = await add(made)
            await claim(made)

            early = await told(made, "rescue", {"now": 0.0}, {"now": 4.9})
            said = await told(made, "rescue", {"now": 0.0}, {"now": 4.9}, {"now": 5.0})

            assert [] == early
            assert [("row", f"tasks:{task_id}", {"attempts": 1})] == said
            assert ["RUNNING"] == await rows_of(made, Task.status)
            fence = await taken(made, "rescue")
            seen = await look(made, fence, {})
            clock.step(5.0)
            await look(made, fence, seen)
            assert ["PENDING"] == await rows_of(made, Task.status)

    run(scenario())


async def through_a_fence(made: Services) -> None:
    fence = await taken(made, "cleanup")
    async with fence.write():
        raise AssertionError("a write transaction was given")


async def through_a_reading_connection(made: Services) -> None:
    async with made.database.read() as connection:
        await connection.execute(text("DELETE FROM users"))


Write = Callable[[Services], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    ("write", "error"), [(through_a_fence, WritesInRehearsal), (through_a_reading_connection, DBAPIError)]
)
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.servers("postgresql"))])
def test_a_dry_run_cannot_write(tmp_path: Path, write: Write, error: type[Exception], store: str) -> None:
    """
    Neither through a fence nor past it: the database itself refuses. The connection is as before afterwards.

    Seen to fail with the reading transaction taken for an ordinary one.
    """
    async def planted(made: Services, observe: Any) -> None:
        assert isinstance(made.database, LookOnly)
        await write(made)

    async def scenario(url: str) -> None:
        async with services(tmp_path / "data", database=url) as made:
            with pytest.raises(error):
                await rehearse(made, planted, Asking([]))
            for _ in range(12):  # every connection of the pool writes again
                await add(made)

    with temporary_database(store, tmp_path) as url:
        run(scenario(url))


def test_the_application_offers_its_dry_runs(tmp_path: Path) -> None:
    """
    Each loop of `app.state.loops` takes `observe`, and tells instead of taking its fence.
    """

    async def scenario() -> None:
        app = create_app({"data": tmp_path})
        made: Services = app.state.services
        await made.open()
        asking = Asking([{}])
        await app.state.loops["cache_refresh"](None, observe=asking)
        assert {KEY: [("row", "cache:tasks", {})]} == asking.told
        assert [] == await rows_of(made, Tick.key)
        await made.close()

    run(scenario())
