"""
Runs one claimed row from start to end, whoever asks for it, and keeps its heartbeat going meanwhile.

A row's end is written with the condition that it is still ours; where it is not, the result is dropped and said so.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection

from .context import Cancelled, Released, Stopped, TaskContext
from .rows import Claim

if TYPE_CHECKING:
    from modern_fastapi.services import Services

log = logging.getLogger(__name__)

Write = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class Runner:
    """
    The tasks that run in this process.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rows = services.rows
        self.running: dict[str, TaskContext] = {}

    async def execute(self, task_id: str) -> None:
        """
        Claims one row and runs it, if it is due; the one entrance of all engines but the table's.
        """
        async with self._services.database.write() as connection:
            claim = await self._rows.claim_one(connection, task_id)
        if claim is not None:
            await self.run(claim, self._services.database.write)

    async def run(self, claim: Claim, write: Write) -> None:
        """
        One attempt. All that it does to the row goes through ``write``.

        Raises only what ``write`` raises, and CancelledError after it has given the row back.
        """
        context = TaskContext(claim.id, claim.attempts, claim.failures, claim.created_at, self._services)
        self.running[claim.id] = context
        try:
            kept = await self._attempt(claim, context, write)
        finally:
            # A later attempt of the same row may have taken the place meanwhile.
            if self.running.get(claim.id) is context:
                del self.running[claim.id]
        if not kept:
            log.warning("task %s: attempt %d was not ours any more; dropped", claim.id, claim.attempts)

    async def _attempt(self, claim: Claim, context: TaskContext, write: Write) -> bool:
        kind = self._services.kinds.get(claim.name)
        limit = asyncio.timeout(claim.timeout)
        try:
            if kind is None:
                raise LookupError(f"this process knows no task {claim.name!r}")
            params = kind.params.model_validate(json.loads(claim.params))
            async with limit:
                result = await kind.function(context, params)
        except Cancelled:
            async with write() as connection:
                return await self._rows.end_cancelled(connection, claim)
        except Released:
            async with write() as connection:
                return await self._rows.release(connection, claim)
        except asyncio.CancelledError:
            async with write() as connection:
                await self._rows.release(connection, claim)
            raise
        except Exception as error:
            late = limit.expired() and isinstance(error, TimeoutError)
            text = f"ran longer than {claim.timeout:g} seconds" if late else str(error)
            log.warning("task %s (%s): attempt %d failed", claim.id, claim.name, claim.attempts, exc_info=error)
            async with write() as connection:
                return await self._rows.fail(connection, claim, f"{type(error).__name__}: {text}")
        async with write() as connection:
            return await self._rows.succeed(connection, claim, result)

    async def beat(self) -> None:
        """
        Renews all rows that run here, writes their progress down, and passes on who should stop.
        """
        contexts = dict(self.running)
        if not contexts:
            return
        async with self._services.database.write() as connection:
            held = await self._rows.beat(connection, {task_id: one.done for task_id, one in contexts.items()})
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
