"""
The consumer: claims due rows and runs them, as many at once as there are workers.

It wakes at once when this process submits work, and looks by itself each second (``poll``) for everybody else's. One
transaction writes down all tasks that have ended and claims the next ones, so that the disk is asked once for many.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import as_text, until_beat
from modern_fastapi.services import Services
from modern_fastapi.tasks.context import Released
from modern_fastapi.tasks.rows import Claim
from modern_fastapi.tasks.runner import Ending

from .fence import Fence, Fenced
from .rehearsal import Observe
from .ticks import BEAT, settle, whole

log = logging.getLogger(__name__)


async def consume(services: Services, fence: Fence) -> None:
    """
    Claims and runs until it is cancelled; then it gives running tasks the grace time, and gives back the others.
    """
    crew = Crew(services, fence)
    beaten = 0.0
    rung = True
    try:
        while True:
            now = services.clock.monotonic()
            pause = until_beat(now, services.settings.poll)
            try:
                idle = None if rung or now - beaten >= BEAT else await _nothing_until(services, crew)
                if idle is None:
                    # Whole, and begun within it: a row that was claimed is run or given back, when ever we are stopped.
                    pause = await whole(crew.turn(), services.settings.grace)
                    beaten = now
                else:
                    pause = idle
            except Exception as error:
                await settle(fence, error)
            rung = await services.bell.wait(pause)
    finally:
        await crew.end(services.settings.grace)


async def rehearse(services: Services, observe: Observe) -> None:
    """
    Says what each claim would take, of what is there when the other one claims.
    """
    async for tick, facts in observe:
        async with services.database.read() as connection:
            rows = await services.rows.choose(connection, facts["limit"], facts["until"], lock=False)
        if rows:
            observe(
                tick,
                [("claim", f"tasks:{row.id}", {"name": row.name, "attempt": row.attempts + 1}) for row in rows],
            )


async def _nothing_until(services: Services, crew: Crew) -> float | None:
    """
    For how many seconds there is nothing to do, unless the bell rings; None where a claim is worth a transaction.
    """

    async def look(connection: AsyncConnection) -> float | None:
        if len(crew) < services.settings.workers:
            until = as_text(services.clock.now())
            if await services.rows.due(connection, "table", until, 1):
                return None
        return await _pause(services, connection)

    return await services.database.look(look)


async def _pause(services: Services, connection: AsyncConnection) -> float:
    """
    For how many seconds there is nothing to do, unless the bell rings.
    """
    poll = until_beat(services.clock.monotonic(), services.settings.poll)
    due = await services.rows.next_due(connection, after=as_text(services.clock.now()))
    return poll if due is None else min(poll, max(0.01, services.seconds_until(due)))


class Crew:
    """
    The tasks that the consumer has begun, and those that have ended and are not written down yet.
    """

    def __init__(self, services: Services, fence: Fence) -> None:
        self.ended: list[Ending] = []
        self._services = services
        self._fence = fence
        self._tasks: dict[asyncio.Task[Ending], Claim] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def turn(self) -> float:
        """
        Writes down what has ended, claims as many rows as there are free workers, and begins them. Returns for how
        many seconds there is nothing more to do, unless the bell rings.
        """
        services = self._services
        ended, self.ended = self.ended, []
        free = services.settings.workers - len(self)
        pause = until_beat(services.clock.monotonic(), services.settings.poll)

        async def write(connection: AsyncConnection) -> tuple[list[Claim], list[Claim], float]:
            lost = await services.runner.record(connection, ended)
            claims = await services.rows.claim(connection, free) if free else []
            more = len(claims) < free
            await self._fence.beat(connection, ticked=bool(claims))
            return lost, claims, await _pause(services, connection) if more else pause

        try:
            # A claim that a power cut undoes is one of a process that it has ended too.
            lost, claims, pause = await self._fence.work(write, durable=bool(ended))
        except Fenced:
            for ending in ended:
                services.runner.forget(ending.claim)
            raise
        except Exception:
            # Nothing was committed: the ends are written at the next turn, or the rows are rescued.
            self.ended = ended + self.ended
            raise
        services.runner.recorded(ended, lost)
        for claim in claims:
            self._begin(claim)
        return pause

    def _begin(self, claim: Claim) -> None:
        run = self._services.runner.run(claim)
        task = asyncio.get_running_loop().create_task(run, name=f"task {claim.id}")
        self._tasks[task] = claim
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Ending]) -> None:
        claim = self._tasks.pop(task)
        if task.cancelled() or task.exception() is not None:
            # Cancelled before it began, or broken where nothing should break: the rescue finds the row.
            log.error("task %s was dropped", claim.id)
            self._services.runner.forget(claim)
        else:
            self.ended.append(task.result())
        self._services.bell.ring()

    async def end(self, grace: float) -> None:
        """
        Waits for the running tasks, ``grace`` seconds at most, stops those that are left, and writes down how all of
        them ended.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task, claim in list(self._tasks.items()):
            self._services.runner.stop(claim.id, Released)
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # The callbacks of the last ones run in the loop's next turn.
        await asyncio.sleep(0)
        if not self.ended:
            return
        runner = self._services.runner
        try:
            lost = await self._fence.work(lambda connection: runner.record(connection, self.ended))
            runner.recorded(self.ended, lost)
        except Exception as error:
            log.warning("%d tasks ended, and it could not be written: %s", len(self.ended), error)
            for ending in self.ended:
                runner.forget(ending.claim)
