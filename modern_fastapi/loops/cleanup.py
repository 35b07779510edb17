"""
The cleanup: every fifteen seconds, in a thread that can be stopped, it removes what nobody will ask for any more.

Those are temporary files that were left behind, uploads without a row, expired tasks with their events, the marks of
old ticks, and the rows of processes that are gone. Files of an hour's age only: a younger one may belong to a request
that is still under way.
"""

import asyncio
import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import as_text
from modern_fastapi.files import FOLDERS
from modern_fastapi.schema import FINAL, Event, Process, Task, Tick, Upload
from modern_fastapi.services import Services
from modern_fastapi.tasks.statements import RUNNING

from .fence import Fence
from .rehearsal import Observe
from .rescue import is_gone
from .ticks import Portal, tick_in_thread

INTERVAL = 15.0
FILE_AGE = 3600.0
TICKS_AGE = timedelta(days=7)
BATCH = 500


async def cleanup(services: Services, fence: Fence) -> None:
    """
    Clears up until it is cancelled.
    """
    await tick_in_thread(services, fence, INTERVAL, tick)


def tick(services: Services, fence: Fence, portal: Portal, scheduled: datetime) -> None:
    """
    One round: first the rows, whose transaction decides who does this tick, and then the files. Runs in a thread.
    """
    portal(_remove_rows(services, fence, scheduled))
    for path in leftovers(services, portal, time.time() - FILE_AGE):
        path.unlink(missing_ok=True)


async def rehearse(services: Services, observe: Observe) -> None:
    """
    Says what each round would remove.
    """
    portal = Portal(asyncio.get_running_loop())
    async for tick_key, facts in observe:
        async with services.database.read() as connection:
            gone = await _find_rows(connection, facts["now"])
        files = await asyncio.to_thread(_listed, services, portal, facts["oldest"])
        rows = [*(f"tasks:{each}" for each in gone.tasks), *(f"ticks:{each}" for each in gone.ticks)]
        rows += [f"processes:{each}" for each in gone.processes]
        observe(
            tick_key,
            [
                *(("row", each, None) for each in rows),
                *(("file", f"{each.parent.name}/{each.name}", None) for each in files),
            ],
        )


def _listed(services: Services, portal: Portal, oldest: float) -> list[Path]:
    return list(leftovers(services, portal, oldest))


def leftovers(services: Services, portal: Portal, oldest: float) -> Iterator[Path]:
    """
    The temporary files, and the uploads that no row knows, that nobody has written to since ``oldest``. In a thread.
    """
    for folder in FOLDERS:
        for path in services.files.path(folder).glob("*.part"):
            if _written(path) < oldest:
                yield path
    old = [
        path
        for path in services.files.path("uploads").iterdir()
        if path.suffix != ".part" and _written(path) < oldest
    ]
    for start in range(0, len(old), BATCH):
        paths = {path.name: path for path in old[start : start + BATCH]}
        for name in paths.keys() - portal(_known_uploads(services, list(paths))):
            yield paths[name]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        # Whoever wrote it has just given it its name.
        return math.inf


@dataclass(frozen=True)
class Gone:
    """
    The rows that a round removes, by their keys.
    """

    tasks: list[str]
    ticks: list[str]
    processes: list[str]


async def _remove_rows(services: Services, fence: Fence, scheduled: datetime) -> None:
    async with fence.tick(scheduled) as connection:
        gone = await _find_rows(connection, services.clock.now())
        for ids in _batches(gone.tasks):
            await connection.execute(delete(Event).where(Event.task_id.in_(ids)))
            await connection.execute(delete(Task).where(Task.id.in_(ids)))
        for keys in _batches(gone.ticks):
            await connection.execute(delete(Tick).where(Tick.key.in_(keys)))
        for boots in _batches(gone.processes):
            await connection.execute(delete(Process).where(Process.boot_id.in_(boots)))


async def _find_rows(connection: AsyncConnection, now: datetime) -> Gone:
    expired = select(Task.id).where(Task.expires_at <= as_text(now), Task.status.in_(FINAL))
    old = select(Tick.key).where(Tick.committed_at < as_text(now - TICKS_AGE))
    # This machine's processes that are gone, once the rescue has taken all that they ran.
    owns = select(1).where(Task.owner == Process.boot_id, RUNNING).exists()
    idle = select(Process.boot_id, Process.pid, Process.start_time).where(Process.host == socket.gethostname(), ~owns)
    return Gone(
        list((await connection.execute(expired)).scalars()),
        list((await connection.execute(old)).scalars()),
        [row.boot_id for row in await connection.execute(idle) if is_gone(row.pid, row.start_time)],
    )


def _batches(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


async def _known_uploads(services: Services, names: list[str]) -> set[str]:
    async with services.database.read() as connection:
        known = select(Upload.upload_id).where(Upload.upload_id.in_(names))
        return set((await connection.execute(known)).scalars())
