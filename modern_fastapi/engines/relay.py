"""
Hands due rows to an engine other than the table's. The rows are the outbox: what an engine loses is handed over again.

A request only rings. The relay reads which rows are due, so that delays, retries and predecessors mean the same under
every engine, and a row is never handed over before it may run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from modern_fastapi.bell import Bell
from modern_fastapi.clock import as_text

if TYPE_CHECKING:
    from modern_fastapi.services import Services
    from modern_fastapi.tasks.rows import Due

log = logging.getLogger(__name__)

BATCH = 200
LONGEST_PAUSE = 60.0
# How often in its patience a relay asks a broker how many messages it has.
LOOKS = 5


class Undeliverable(Exception):
    """
    The engine cannot be reached now.
    """


class Relay:
    """
    The rows of one engine on their way to it.

    ``deliver`` hands ids over, or raises ``Undeliverable``. A row that was never started is left to whoever submitted
    it for ``delay`` seconds; a retry is nobody else's, and is handed over when it is due. Where nothing can be
    delivered for ``patience`` seconds, the rows go to the table instead, for any consumer. It is tried once in a
    ``poll`` then, whoever rings.

    An engine of this process loses what it was given with the process. The relay remembers what it has, up to ``room``
    rows that wait, and hands over again what still waits ``patience`` seconds later, each time after twice the pause.

    A broker keeps what it was given: ``depth`` says how many messages are there. That a row was handed over stands in
    the row, so that however often a server starts, and however long the backlog, each has one message. Where there are
    fewer than half as many messages as rows for ``patience`` seconds on end they are taken for lost, and handed over
    again, each time after twice the pause. One that is lost alone is known by those that overtake it: a row that waits,
    though one runs whose message was given ``patience`` seconds later, is handed over again. A row that may have two
    messages says nothing of that: the older one comes in its old place.
    """

    def __init__(
        self,
        services: Services,
        engine: str,
        deliver: Callable[[Sequence[str]], Awaitable[None]],
        *,
        delay: float = 0.0,
        patience: float = 30.0,
        room: int = 1000,
        depth: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._services = services
        self._engine = engine
        self._deliver = deliver
        self._delay = timedelta(seconds=delay)
        self._patience = patience
        self._room = room
        self._depth = depth
        self._look_after = 0.0
        self._short_since: float | None = None
        self._reached = ""
        self._again = 0
        self._handed: dict[Due, tuple[float, float]] = {}
        self._down_since: float | None = None
        self.bell = Bell()

    async def run(self) -> None:
        """
        Hands over until it is cancelled.
        """
        while True:
            try:
                due = await self._due()
                if due:
                    await self._hand_over(due)
                pause = await self._pause()
            except Exception:
                log.exception("the relay to %s failed; it goes on", self._engine)
                pause = self._services.settings.poll
            if self._down_since is None:
                await self.bell.wait(pause)
            else:
                # Each attempt takes this process's time from its requests: rows that come meanwhile share the next one.
                await asyncio.sleep(self._services.settings.poll)

    async def _due(self) -> list[Due]:
        rows, now = self._services.rows, self._services.clock.monotonic()
        moment = self._services.clock.now()
        if self._depth is not None:
            await self._look_for_losses(self._depth)
            until, outbox = as_text(moment), self._services.outbox
            return await self._services.database.look(
                lambda connection: outbox.to_hand_over(connection, self._engine, until, BATCH)
            )
        until, fresh = as_text(moment), as_text(moment - self._delay)
        due = await self._services.database.look(
            lambda connection: rows.due(connection, self._engine, until, self._room, fresh)
        )
        self._handed = {row: self._handed[row] for row in due if row in self._handed}
        waiting = [row for row in due if self._handed.get(row, (0.0, 0.0))[0] <= now]
        return waiting[:BATCH]

    async def _look_for_losses(self, depth: Callable[[], Awaitable[int]]) -> None:
        now = self._services.clock.monotonic()
        if now < self._look_after:
            return
        self._look_after = now + self._patience / LOOKS
        patience = min(LONGEST_PAUSE, self._patience * 2**self._again)
        database, outbox = self._services.database, self._services.outbox
        waiting = await database.look(lambda connection: outbox.count(connection, self._engine))
        if not waiting:
            self._again, self._short_since = 0, None
            return
        try:
            there = await depth()
        except Undeliverable as error:
            # It may have kept everything. One row that is handed over again finds out for how long that lasts.
            log.debug("%s does not say what it has: %s", self._engine, error)
            await database.work(lambda connection: outbox.forget_one(connection, self._engine))
            self._look_after = now + patience
            return
        if 2 * there >= waiting:
            self._short_since = None
            await self._look_for_overtaken()
            return
        self._short_since = now if self._short_since is None else self._short_since
        if now - self._short_since >= patience:
            log.warning("%s has %d messages for %d rows; they are handed over again", self._engine, there, waiting)
            await database.work(lambda connection: outbox.forget_all(connection, self._engine))
            self._again, self._short_since = min(10, self._again + 1), None

    async def _look_for_overtaken(self) -> None:
        database, outbox = self._services.database, self._services.outbox
        found = await database.look(lambda connection: outbox.reached(connection, self._engine))
        # After the clock was set back, moments that are still to come say nothing of what is given from now on.
        now = as_text(self._services.clock.now())
        reached = self._reached = max(moment for moment in (self._reached, found or "", "") if moment <= now)
        if not reached:
            return
        lost = await database.look(
            lambda connection: outbox.overtaken(connection, self._engine, reached, self._patience, BATCH)
        )
        if lost:
            log.warning("%s has lost %d messages; their rows are handed over again", self._engine, len(lost))
            await database.work(lambda connection: outbox.forget(connection, lost))

    async def _pause(self) -> float:
        poll = self._services.settings.poll
        rows, after = self._services.rows, as_text(self._services.clock.now())
        due = await self._services.database.look(lambda connection: rows.next_due(connection, self._engine, after))
        return poll if due is None else min(poll, max(0.01, self._services.seconds_until(due)))

    async def _hand_over(self, due: list[Due]) -> None:
        now = self._services.clock.monotonic()
        task_ids = [task_id for task_id, _ in due]
        try:
            await self._deliver(task_ids)
        except Undeliverable as error:
            if self._down_since is None:
                self._down_since = now
                log.error("%s cannot be reached, the rows wait: %s", self._engine, error)
            elif now - self._down_since >= self._patience:
                log.error("%s cannot be reached, %d rows went to the table", self._engine, await self._give_up())
            return
        if self._down_since is not None:
            log.warning("%s can be reached again", self._engine)
            self._down_since = None
        if self._depth is not None:
            # Undone by a power cut, it costs a second message.
            outbox = self._services.outbox
            await self._services.database.work(lambda connection: outbox.handed_over(connection, due), durable=False)
            if len(due) == BATCH:
                self.bell.ring()
            return
        for row in due:
            pause = min(LONGEST_PAUSE, 2 * self._handed.get(row, (0.0, self._patience / 2))[1])
            self._handed[row] = (now + pause, pause)

    async def _give_up(self) -> int:
        """
        Leaves all due rows to the table; how many.
        """
        outbox, until, count = self._services.outbox, as_text(self._services.clock.now()), 0
        full = True
        while full:
            # Undone by a power cut, it is done again.
            moved = await self._services.database.work(
                lambda connection: outbox.move_to_table(connection, self._engine, until, BATCH), durable=False
            )
            count += moved
            full = moved == BATCH
            self._services.bell.ring()
        return count
