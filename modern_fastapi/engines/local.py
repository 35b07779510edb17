"""
Engines within this process: after the response, as asyncio tasks, or in threads that have an event loop each.

They are quick to start and need nobody else. A row that they lose with the process is found by the relay of the next
one, or by the rescue.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modern_fastapi.tasks.context import Released

from .relay import Relay
from .worker import Worker

if TYPE_CHECKING:
    from modern_fastapi.services import Services

log = logging.getLogger(__name__)

# Long enough that a request's own background work comes first, and short enough for who waits for a retry.
INLINE_DELAY = 2.0
PATIENCE = 5.0


class InlineEngine:
    """
    Runs a request's tasks after its response, one after another, as ``BackgroundTasks`` does. Retries and delayed
    tasks run from the relay.
    """

    name = "inline"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._relay = Relay(services, self.name, self.start, delay=INLINE_DELAY, patience=PATIENCE)

    async def start(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            try:
                await self._services.runner.execute(task_id)
            except Exception:
                # The next task of the same request must not suffer; the row is rescued.
                log.exception("task %s could not be run", task_id)

    async def run(self) -> None:
        await self._relay.run()

    async def close(self, grace: float) -> None:
        await self._services.runner.wind_down(grace)


class AsyncioEngine:
    """
    Runs each task as an asyncio task of this process, with as many at once as there are workers.
    """

    name = "asyncio"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._slots = asyncio.Semaphore(services.settings.workers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._relay = Relay(services, self.name, self._begin, patience=PATIENCE, room=2 * services.settings.workers)

    async def start(self, task_ids: Sequence[str]) -> None:
        self._relay.bell.ring()

    async def _begin(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            # The set keeps the task alive: asyncio itself holds only a weak reference.
            task = asyncio.get_running_loop().create_task(self._execute(task_id), name=f"task {task_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, task_id: str) -> None:
        try:
            await self._services.runner.execute(task_id, self._slots)
        except Exception:
            log.exception("task %s could not be run", task_id)
        self._relay.bell.ring()

    async def run(self) -> None:
        await self._relay.run()

    async def close(self, grace: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ThreadEngine:
    """
    Runs each task in one of a few threads. Each has an event loop and connections of its own, so that a function that
    blocks its loop holds up nobody else.
    """

    name = "thread"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: list[Worker] = []
        self._relay = Relay(services, self.name, self._put, patience=PATIENCE, room=2 * services.settings.workers)

    async def start(self, task_ids: Sequence[str]) -> None:
        self._relay.bell.ring()

    async def _put(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._waiting.put(task_id)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in range(self._services.settings.workers):
            thread = threading.Thread(target=self._work, args=(loop,), name=f"engine {number}")
            self._threads.append(thread)
            thread.start()
        await self._relay.run()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with Worker(self._services.settings, self._services.database.writers) as worker:
            self._workers.append(worker)
            while (task_id := self._waiting.get()) is not None:
                worker.execute(task_id)
                loop.call_soon_threadsafe(self._relay.bell.ring)

    async def close(self, grace: float) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        await asyncio.to_thread(self._join, grace)

    def _join(self, grace: float) -> None:
        for thread in self._threads:
            thread.join(grace / len(self._threads))
        for worker in self._workers:
            worker.stop(Released)
        for thread in self._threads:
            thread.join()
