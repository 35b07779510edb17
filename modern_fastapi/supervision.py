"""
The long-running tasks of the lifespan: each has a name and an owner, and none dies unseen.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Supervisor:
    """
    Owns tasks that run until they are stopped.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """
        Runs ``work`` until ``stop``.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s has died", task.get_name(), exc_info=error)

    async def stop(self, *names: str) -> None:
        """
        Cancels the tasks of these names, or all, and waits until they have cleared up.
        """
        chosen = [self._tasks.pop(name) for name in names or tuple(self._tasks)]
        for task in chosen:
            task.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)
