"""
The rescue: puts back what a dead process left running, and what waits for an engine that is gone.

A process of this machine that is gone is seen at once. For all others the rescue watches heartbeats by its own
monotonic clock: a row whose heartbeat stands still for the lease is nobody's. No two clocks are compared.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import until_beat
from modern_fastapi.schema import TASKS, Process
from modern_fastapi.services import Services, start_time
from modern_fastapi.tasks.statements import RUNNING

from .fence import Fence
from .rehearsal import Observe
from .ticks import BEAT, settle, whole

log = logging.getLogger(__name__)

INTERVAL = 1.0
# Seconds after which a row of another engine is taken for lost: longer than that engine's own second try.
STRAY = 60.0

HELD = (
    select(
        TASKS.c.id, TASKS.c.attempts, TASKS.c.heartbeat, Process.host, Process.pid, Process.start_time, Process.boot_id
    )
    .outerjoin(Process, Process.boot_id == TASKS.c.owner)
    .where(RUNNING)
)

Mark = tuple[str, int, int]


async def rescue(services: Services, fence: Fence) -> None:
    """
    Looks once a second until it is cancelled.
    """
    seen: dict[Mark, float] = {}
    beaten = 0.0
    while True:
        now = services.clock.monotonic()
        beat = now - beaten >= BEAT
        try:
            seen = await whole(look(services, fence, seen, beat=beat), services.settings.grace)
            beaten = now if beat else beaten
        except Exception as error:
            await settle(fence, error)
        await asyncio.sleep(until_beat(services.clock.monotonic(), INTERVAL))


async def rehearse(services: Services, observe: Observe) -> None:
    """
    Says what each look would put back; only once it has watched for a lease, as whoever owns the loop has.
    """
    seen: dict[Mark, float] = {}
    began: float | None = None
    async for tick, facts in observe:
        now = facts["now"]
        began = now if began is None else began
        seen, stale = await _find(services, seen, now)
        if stale and now - began >= services.settings.lease:
            observe(tick, [("row", f"tasks:{task_id}", {"attempts": attempts}) for task_id, attempts, _ in stale])


async def _running(connection: AsyncConnection) -> Sequence[Any]:
    return (await connection.execute(HELD)).all()


async def _find(services: Services, seen: dict[Mark, float], now: float) -> tuple[dict[Mark, float], list[Mark]]:
    """
    What runs, with the time of its first sight, and what of it is stale.
    """
    rows = await services.database.look(_running)
    marks: dict[Mark, float] = {}
    stale: list[Mark] = []
    for row in rows:
        mark = (row.id, row.attempts, row.heartbeat)
        since = marks[mark] = seen.get(mark, now)
        gone = row.boot_id is not None and row.host == socket.gethostname() and is_gone(row.pid, row.start_time)
        if gone or now - since >= services.settings.lease:
            stale.append(mark)
    return marks, stale


async def look(services: Services, fence: Fence, seen: dict[Mark, float], *, beat: bool = True) -> dict[Mark, float]:
    """
    One tick: puts back what is stale, and returns what to remember for the next, with the time of its first sight.
    """
    marks, stale = await _find(services, seen, services.clock.monotonic())
    if not stale and not beat:
        return marks

    async def put_back(connection: AsyncConnection) -> tuple[list[str], list[str], int]:
        again, failed = await services.rows.rescue(connection, stale)
        strays = await services.outbox.adopt_strays(connection, services.engine.name, STRAY) if beat else 0
        await fence.beat(connection, ticked=True)
        return again, failed, strays

    again, failed, strays = await fence.work(put_back)
    for task_id in again:
        log.warning("task %s: whoever ran it is gone; it waits again", task_id)
    for task_id in failed:
        log.error("task %s: whoever ran it is gone; it has ended", task_id)
    if strays:
        log.warning("%d rows waited for an engine that nobody runs; they went to the table", strays)
    if again or strays:
        services.bell.ring()
    return marks


def is_gone(pid: int, started: str) -> bool:
    """
    Whether the process that had this pid since ``started`` has ended.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return start_time(pid) != started
