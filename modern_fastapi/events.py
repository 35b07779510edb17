"""
Changes of tasks as server-sent events, in commit order, nothing skipped.

One source reads the table for all clients and keeps the latest events in a ring. A client is only a place in the
order: one that falls behind the ring reads the table for itself, a little at a time. However many there are, and
however slowly they read, what is kept for each is one small piece.
"""

import asyncio
import json
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator
from operator import itemgetter

from sqlalchemy import func, select

from .bell import Bell
from .database import Database
from .schema import Event

log = logging.getLogger(__name__)

RING = 2000
PAGE = 50
POLL = 0.5

Frame = tuple[int, bytes]


class EventSource:
    """
    All events, for any number of clients. ``run`` alone writes the ring.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ring: list[Frame] = []
        self._newest = 0
        self._news = asyncio.Event()
        self._ended = False
        self.bell = Bell()
        self.clients = 0

    async def newest(self) -> int:
        """
        The number of the last event that is committed.
        """
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(Event.seq)))).scalar() or 0

    async def run(self) -> None:
        """
        Reads what is new until it is cancelled; only while somebody listens.
        """
        idle = True
        while True:
            try:
                if self.clients and idle:
                    # What came while nobody listened is read by those who ask for it.
                    self._ring = []
                    self._newest = await self.newest()
                    self._tell()
                idle = not self.clients
                while self.clients and (frames := await self._read(self._newest, RING)):
                    self._ring = [*self._ring, *frames][-RING:]
                    self._newest = frames[-1][0]
                    self._tell()
            except Exception:
                log.exception("the events cannot be read; the streams wait")
            await self.bell.wait(POLL if self.clients else 3600.0)

    def end(self) -> None:
        """
        Ends all streams.
        """
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def stream(self, after: int, heartbeat: float) -> AsyncIterator[bytes]:
        """
        The stream of one client, from the event after ``after``, with a comment where nothing came for ``heartbeat``
        seconds.
        """
        self.clients += 1
        self.bell.ring()
        try:
            yield b"retry: 2000\n\n"
            while not self._ended:
                news = self._news
                if frames := await self._after(after):
                    after = frames[-1][0]
                    yield b"".join(frame for _, frame in frames)
                    continue
                try:
                    async with asyncio.timeout(heartbeat):
                        await news.wait()
                except TimeoutError:
                    yield b": keep-alive\n\n"
        finally:
            self.clients -= 1

    async def _after(self, after: int) -> list[Frame]:
        if after >= self._newest:
            return []
        ring = self._ring
        if ring and ring[0][0] <= after + 1:
            first = bisect_right(ring, after, key=itemgetter(0))
            return ring[first : first + PAGE]
        # A client that leaves must not take a connection with it that is in the middle of a query.
        return await asyncio.shield(asyncio.ensure_future(self._read(after, PAGE)))

    async def _read(self, after: int, limit: int) -> list[Frame]:
        wanted = select(Event.seq, Event.task_id, Event.name, Event.status, Event.attempts, Event.at)
        async with self._database.read() as connection:
            rows = await connection.execute(wanted.where(Event.seq > after).order_by(Event.seq).limit(limit))
            return [_frame(row.seq, row.task_id, row.name, row.status, row.attempts, row.at) for row in rows]


def _frame(seq: int, task_id: str, name: str, status: str, attempts: int, at: str) -> Frame:
    data = {"id": task_id, "name": name, "status": status, "attempts": attempts, "at": at}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return seq, f"id: {seq}\nevent: task\ndata: {text}\n\n".encode()
