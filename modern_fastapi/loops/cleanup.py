"""
The cleanup: every fifteen seconds, in a thread that can be stopped, it removes what nobody will ask for any more.

Those are temporary files that were left behind, uploads without a row, expired tasks with their events, the marks of
old ticks, and the rows of processes that are gone. Files of an hour's age only: a younger one may belong to a request
that is still under way.
"""

import socket
import time
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import as_text
from modern_fastapi.files import FOLDERS
from modern_fastapi.schema import FINAL, Event, Process, Task, Tick, Upload
from modern_fastapi.services import Services
from modern_fastapi.tasks.rows import RUNNING

from .fence import Fence
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
    oldest = time.time() - FILE_AGE
    for folder in FOLDERS:
        for path in services.files.path(folder).glob("*.part"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
    old = [path for path in services.files.path("uploads").iterdir() if path.stat().st_mtime < oldest]
    for start in range(0, len(old), BATCH):
        paths = {path.name: path for path in old[start : start + BATCH]}
        for name in paths.keys() - portal(_known_uploads(services, list(paths))):
            paths[name].unlink(missing_ok=True)


async def _remove_rows(services: Services, fence: Fence, scheduled: datetime) -> None:
    now = services.clock.now()
    async with fence.tick(scheduled) as connection:
        expired = select(Task.id).where(Task.expires_at <= as_text(now), Task.status.in_(FINAL)).limit(BATCH)
        if gone := list((await connection.execute(expired)).scalars()):
            await connection.execute(delete(Event).where(Event.task_id.in_(gone)))
            await connection.execute(delete(Task).where(Task.id.in_(gone)))
        await connection.execute(delete(Tick).where(Tick.committed_at < as_text(now - TICKS_AGE)))
        await _forget_the_dead(connection)


async def _forget_the_dead(connection: AsyncConnection) -> None:
    """
    Removes the rows of this machine's processes that are gone, once the rescue has taken all that they ran.
    """
    owns = select(1).where(Task.owner == Process.boot_id, RUNNING).exists()
    idle = select(Process.boot_id, Process.pid, Process.start_time).where(Process.host == socket.gethostname(), ~owns)
    gone = [row.boot_id for row in await connection.execute(idle) if is_gone(row.pid, row.start_time)]
    await connection.execute(delete(Process).where(Process.boot_id.in_(gone)))


async def _known_uploads(services: Services, names: list[str]) -> set[str]:
    async with services.database.read() as connection:
        known = select(Upload.upload_id).where(Upload.upload_id.in_(names))
        return set((await connection.execute(known)).scalars())
