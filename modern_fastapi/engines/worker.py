"""
Runs rows for whoever has no event loop: a thread of the thread engine, or a worker of Celery, RQ or Dramatiq.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from modern_fastapi.lanes import Writers
from modern_fastapi.loops.once import tick_once
from modern_fastapi.services import Services
from modern_fastapi.settings import Settings
from modern_fastapi.supervision import Supervisor
from modern_fastapi.tasks.context import Stopped

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds until the first heartbeat.
FIRST_SIGN = 1.0


class Worker:
    """
    An event loop with services of its own, which runs only while a row does. To be used by one thread; ``stop`` by any.
    The workers of one process share its ``writers``.
    """

    def __init__(self, settings: Settings, writers: Writers | None = None) -> None:
        self._settings = settings
        self._writers = writers

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._services = self._runner.run(self._open())
        return self

    async def _open(self) -> Services:
        # A worker runs what it is given, and hands nothing on.
        services = Services(self._settings.model_copy(update={"engine": "table"}), writers=self._writers)
        await services.open()
        return services

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.run(self._services.close())
        self._runner.close()

    def execute(self, task_id: str) -> None:
        """
        Runs one row, if it is due and nobody else has it. Never raises for what the row's function does.
        """
        runner = self._services.runner
        try:
            if self._services.database.postgresql:
                self._runner.run(self._alive(runner.execute(task_id)))
            elif (claim := runner.claim_here(task_id)) is not None:
                runner.end_here(self._runner.run(self._alive(runner.run(claim))))
        except Exception:
            log.exception("task %s could not be run", task_id)

    async def _alive(self, work: Coroutine[Any, Any, T]) -> T:
        supervisor = Supervisor()
        # A row that was just claimed needs no sign of life yet, and most have ended by then.
        loop = asyncio.get_running_loop()
        beginning = loop.call_later(FIRST_SIGN, lambda: supervisor.start("pulse", self._services.pulse()))
        try:
            return await work
        finally:
            beginning.cancel()
            await supervisor.stop()

    def tick(self, name: str) -> None:
        """
        Does the tick of a loop that is due now, unless somebody has done it.
        """
        self._runner.run(tick_once(self._services, name))

    def stop(self, verdict: type[Stopped]) -> None:
        """
        Tells the row that runs here to end at its next checkpoint.
        """

        def tell() -> None:
            for task_id in list(self._services.runner.running):
                self._services.runner.stop(task_id, verdict)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:
            log.debug("the worker has ended already")
