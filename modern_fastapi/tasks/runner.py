"""
Runs one claimed row from start to end, whoever asks for it, and keeps its heartbeat going meanwhile.

A row's end is written with the condition that it is still ours; where it is not, the result is dropped and said so.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncConnection

from .context import Cancelled, Released, Stopped, TaskContext
from .rows import Claim
from .together import Together

if TYPE_CHECKING:
    from modern_fastapi.services import Services

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """
    What is to be written about an attempt: its ``result``, or what ``write`` does, which says whether the row was
    still ours.
    """

    claim: Claim
    write: Callable[[AsyncConnection], Awaitable[bool]] | None
    result: Any = None
    cancelled: bool = False


class Runner:
    """
    The tasks that run in this process.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rows = services.rows
        self._claims: Together[str, Claim | None] = Together(self._claim)
        self._ends: Together[Ending, None] = Together(self._end)
        self.running: dict[str, TaskContext] = {}

    async def execute(self, task_id: str, place: AbstractAsyncContextManager[object] | None = None) -> None:
        """
        Claims one row and runs it, if it may start; the one entrance of all engines but the table's. It has its
        ``place`` until its function has ended: the next one's claim shares the transaction that writes the end.
        """
        async with place or nullcontext():
            claiming = self._claims.ask(task_id)
            try:
                claim = await asyncio.shield(claiming)
            except asyncio.CancelledError:
                # The claim is on its way, and its row is nobody else's: it is given back.
                if (claim := await claiming) is not None:
                    await self._ends.ask(Ending(claim, partial(self._rows.release, claim=claim)))
                raise
            if claim is None:
                return
            ending = await self.run(claim)
        try:
            await self._ends.ask(ending)
        finally:
            # Not written down, it has no heartbeat either, and is rescued.
            self.forget(claim)
        if ending.cancelled:
            raise asyncio.CancelledError

    def claim_here(self, task_id: str) -> Claim | None:
        """
        Claims one row, if it may start, while the event loop stands still. SQLite only.
        """
        database = self._services.database
        return database.work_here(lambda connection: self._rows.claim_one(connection, task_id), durable=False)

    def end_here(self, ending: Ending) -> None:
        """
        Records how an attempt ended, while the event loop stands still. SQLite only.
        """
        try:
            lost = self._services.database.work_here(lambda connection: self.record(connection, [ending]))
            self.recorded([ending], lost)
        finally:
            # Not written down, it has no heartbeat either, and is rescued.
            self.forget(ending.claim)

    async def _claim(self, task_ids: list[str]) -> list[Claim | None]:
        # A claim that a power cut undoes is one of a process that it has ended too.
        return await self._services.database.work(
            lambda connection: self._rows.claim_each(connection, task_ids), durable=False
        )

    async def _end(self, endings: list[Ending]) -> list[None]:
        lost = await self._services.database.work(lambda connection: self.record(connection, endings))
        self.recorded(endings, lost)
        return [None] * len(endings)

    async def settled(self) -> None:
        """
        Returns when no claim and no end is on its way to the database.
        """
        await self._claims.settled()
        await self._ends.settled()

    async def run(self, claim: Claim) -> Ending:
        """
        One attempt. Returns what has to be recorded, also when the attempt is cancelled; the row's heartbeat goes on
        until that is done.
        """
        context = TaskContext(claim.id, claim.attempts, claim.failures, claim.created_at, self._services)
        self.running[claim.id] = context
        rows = self._rows
        kind = self._services.kinds.get(claim.name)
        limit = asyncio.timeout(claim.timeout)
        try:
            if kind is None:
                raise LookupError(f"this process knows no task {claim.name!r}")
            params = kind.params.model_validate(json.loads(claim.params))
            async with limit:
                result = await kind.function(context, params)
        except Cancelled:
            return Ending(claim, partial(rows.end_cancelled, claim=claim))
        except Released:
            return Ending(claim, partial(rows.release, claim=claim))
        except asyncio.CancelledError:
            return Ending(claim, partial(rows.release, claim=claim), cancelled=True)
        except Exception as error:
            late = limit.expired() and isinstance(error, TimeoutError)
            text = f"ran longer than {claim.timeout:g} seconds" if late else str(error)
            log.warning("task %s (%s): attempt %d failed", claim.id, claim.name, claim.attempts, exc_info=error)
            return Ending(claim, partial(rows.fail, claim=claim, error=f"{type(error).__name__}: {text}"))
        return Ending(claim, None, result)

    async def record(self, connection: AsyncConnection, endings: Sequence[Ending]) -> list[Claim]:
        """
        Writes how attempts ended: those that succeeded, as most do, in one statement. Returns those that were not ours
        any more.
        """
        succeeded = [(ending.claim, ending.result) for ending in endings if ending.write is None]
        lost = await self._rows.succeed(connection, succeeded)
        for ending in endings:
            if ending.write is not None and not await ending.write(connection):
                lost.append(ending.claim)
        return lost

    def recorded(self, endings: Sequence[Ending], lost: Sequence[Claim]) -> None:
        """
        Ends the heartbeats of what was recorded, once that is committed.
        """
        for ending in endings:
            self.forget(ending.claim)
        for claim in lost:
            log.warning("task %s: attempt %d was not ours any more; its end is dropped", claim.id, claim.attempts)

    def forget(self, claim: Claim) -> None:
        """
        Ends the heartbeat of an attempt, unless a later one of the same row has taken its place.
        """
        context = self.running.get(claim.id)
        if context is not None and context.attempts == claim.attempts:
            del self.running[claim.id]

    async def beat(self) -> None:
        """
        Renews all rows that run here and writes their progress down. Then it passes on who should stop.
        """
        contexts = dict(self.running)
        if not contexts:
            return
        done = {task_id: one.done for task_id, one in contexts.items()}
        held = await self._services.database.work(
            lambda connection: self._rows.beat(connection, done), durable=False
        )
        for task_id, context in contexts.items():
            if task_id not in held:
                context.stop(Released)
            elif held[task_id]:
                context.stop(Cancelled)

    async def wind_down(self, grace: float) -> None:
        """
        Waits until nothing runs here. What still does after ``grace`` seconds is told to stop, and has as long again.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while self.running and loop.time() < end + grace:
            if loop.time() > end:
                for context in self.running.values():
                    context.stop(Released)
            await asyncio.sleep(0.02)

    def stop(self, task_id: str, verdict: type[Stopped]) -> None:
        """
        Tells a task that runs here to end at its next checkpoint.
        """
        if task_id in self.running:
            self.running[task_id].stop(verdict)
