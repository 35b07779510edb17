"""
What the application is made of besides its routes, put together once from the settings.

Nothing here opens a file or a connection before ``open``, so that making an application has no effects.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert

from .bell import Bell
from .clock import Clock, SystemClock, as_text, from_text, until_beat
from .database import Database
from .engines import make_engine
from .events import EventSource
from .files import Files
from .lanes import Writers
from .migrate import migrate
from .processes import Processes
from .request_log import RequestLog
from .schema import FINAL, Process, Status
from .settings import Settings
from .tasks.kinds import KINDS, Kind
from .tasks.outbox import Outbox
from .tasks.rows import TaskRows
from .tasks.runner import Runner

if TYPE_CHECKING:
    from psycopg import AsyncConnection as Listening

log = logging.getLogger(__name__)

SIDE = "modern"


class Services:
    """
    One application's stores, pools and workers. Used on one event loop; ``writers`` is where this process's writers
    queue, if it has several.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None, writers: Writers | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.boot_id = str(uuid.uuid4())
        self.draining = asyncio.Event()
        self.kinds: Mapping[str, Kind] = KINDS
        self.bell = Bell()
        self.files = Files(settings.data)
        self.database = Database(settings.database_url, writers)
        self.threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="tasks")
        self.loop_threads = ThreadPoolExecutor(3, thread_name_prefix="loops")
        self.processes = Processes(max(1, min(4, (os.cpu_count() or 1))))
        self.rows = TaskRows(self.database, self.clock, self.boot_id)
        self.outbox = Outbox(self.clock)
        self.runner = Runner(self)
        self.engine = make_engine(self)
        self.events = EventSource(self.database)
        self.database.listeners.append(self.events.bell.ring)
        self.request_log = RequestLog(self.files, self.clock)

    @property
    def owner(self) -> str:
        """
        How this process signs the loops that it runs.
        """
        return f"{SIDE}:{self.boot_id}"

    def seconds_until(self, text: str) -> float:
        """
        How long until a moment of the database, in seconds; negative where it has passed.
        """
        return (from_text(text) - self.clock.now()).total_seconds()

    async def open(self) -> None:
        """
        Folders, schema, and the row that says that this process lives.
        """
        self.files.prepare()
        await migrate(self.database)
        async with self.database.write() as connection:
            await connection.execute(
                insert(Process).values(
                    boot_id=self.boot_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    start_time=start_time(os.getpid()),
                    side=SIDE,
                    started_at=as_text(self.clock.now()),
                )
            )

    async def pulse(self) -> None:
        """
        Says once a second that the tasks live that this process runs.
        """
        while True:
            try:
                await self.runner.beat()
            except Exception:
                log.exception("the heartbeat failed; it goes on")
            await asyncio.sleep(until_beat(self.clock.monotonic(), 1.0))

    async def hear_others(self) -> None:
        """
        Rings for what other processes commit, where the database tells; SQLite doesn't, and is looked at instead.
        """
        while self.database.postgresql:
            try:
                async with await psycopg_connection(self.database.url) as connection:
                    await connection.execute("LISTEN jobs")
                    self.bell.ring()
                    async for notice in connection.notifies():
                        self.events.bell.ring()
                        if notice.payload in (Status.PENDING, Status.RETRY, *FINAL):
                            self.bell.ring()
            except Exception:
                log.exception("the database's notices broke off; looking at it each second meanwhile")
                await asyncio.sleep(1.0)

    async def close(self) -> None:
        """
        Ends pools and connections, the users of each before it.
        """
        await self.runner.settled()
        await self.processes.close()
        await asyncio.to_thread(self.threads.shutdown)
        await asyncio.to_thread(self.loop_threads.shutdown)
        try:
            async with self.database.write() as connection:
                await connection.execute(delete(Process).where(Process.boot_id == self.boot_id))
        except Exception as error:
            log.warning("the row of this process stays, for a cleanup to remove: %s", error)
        await self.database.close()
        self.files.close()


async def psycopg_connection(url: str) -> Listening[Any]:
    """
    A connection beside the pool's, which only listens.
    """
    from psycopg import AsyncConnection as Listening

    return await Listening.connect(url, autocommit=True)


def start_time(pid: int) -> str:
    """
    The kernel's start time of a process, in ticks; empty where the system doesn't tell, or there is no such process,
    or what is left of it only waits for its parent to ask how it ended.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name, in parentheses, may hold anything; the fields after it are the state, and numbers.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in ("Z", "X") else fields[19]
