"""
The daily report: at midnight UTC, for the day that has just ended. A midnight that was missed is made up at start.

APScheduler says when; what is done, and that it is done once, stands in the database. UTC has no summer time, so that
every day has its one midnight.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.bell import Bell
from modern_fastapi.clock import as_text
from modern_fastapi.schema import Report, Task, User
from modern_fastapi.services import Services

from .fence import AlreadyTicked, Fence
from .rehearsal import Observe
from .ticks import counted, whole

# A machine that slept, or whose clock was set, wakes timers late: it looks for itself now and then.
AT_LEAST_EVERY = 3600.0


async def daily_report(services: Services, fence: Fence) -> None:
    """
    Reports until it is cancelled.
    """
    with _midnights() as bell:
        while True:
            await whole(counted(fence, report(services, fence)), services.settings.grace)
            await bell.wait(AT_LEAST_EVERY)


async def rehearse(services: Services, observe: Observe) -> None:
    """
    Says at its own midnights what each report would be.
    """
    told = None
    with _midnights() as bell:
        while True:
            midnight = last_midnight(services.clock.now())
            async with services.database.read() as connection:
                if midnight != told and await _has_history(connection, as_text(midnight)):
                    day = _day_before(midnight)
                    figures = await _figures(connection, day, midnight)
                    observe(f"daily_report@{as_text(midnight)}", [("row", f"reports:{day}", figures)])
                    told = midnight
            await bell.wait(AT_LEAST_EVERY)


@contextmanager
def _midnights() -> Iterator[Bell]:
    """
    A bell that APScheduler rings at each midnight.
    """
    bell = Bell()
    scheduler = AsyncIOScheduler(timezone=UTC)
    scheduler.add_job(bell.ring, CronTrigger(hour=0, minute=0, timezone=UTC), misfire_grace_time=None)
    scheduler.start()
    try:
        yield bell
    finally:
        scheduler.shutdown(wait=False)


def last_midnight(now: datetime) -> datetime:
    """
    The midnight, in UTC, that came last.
    """
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _day_before(midnight: datetime) -> str:
    return (midnight - timedelta(days=1)).date().isoformat()


async def report(services: Services, fence: Fence) -> None:
    """
    Writes the report of the day before the last midnight, unless it is there, or there was nothing before it.
    """
    midnight = last_midnight(services.clock.now())
    day = _day_before(midnight)
    async with services.database.read() as connection:
        there = (await connection.execute(select(Report.day).where(Report.day == day))).scalar()
        if there is not None or not await _has_history(connection, as_text(midnight)):
            return
    async with fence.tick(midnight) as connection:
        body = json.dumps(await _figures(connection, day, midnight))
        insert = services.database.insert(Report).values(day=day, body=body, created_at=as_text(services.clock.now()))
        added = insert.on_conflict_do_nothing(index_elements=["day"]).returning(Report.day)
        if (await connection.execute(added)).scalar() is None:
            raise AlreadyTicked(day)


async def _has_history(connection: AsyncConnection, midnight: str) -> bool:
    for table, moment in ((Task, Task.created_at), (User, User.created_at), (Report, Report.created_at)):
        if (await connection.execute(select(1).select_from(table).where(moment < midnight).limit(1))).scalar():
            return True
    return False


async def _figures(connection: AsyncConnection, day: str, midnight: datetime) -> dict[str, object]:
    begin, end = as_text(midnight - timedelta(days=1)), as_text(midnight)
    counted_tasks = (
        select(Task.status, func.count().label("number"))
        .where(Task.created_at >= begin, Task.created_at < end)
        .group_by(Task.status)
        .order_by(Task.status)
    )
    tasks = {row.status: row.number for row in await connection.execute(counted_tasks)}
    users = (await connection.execute(select(func.count()).select_from(User).where(User.created_at < end))).scalar()
    return {"day": day, "tasks": tasks, "users": users}
