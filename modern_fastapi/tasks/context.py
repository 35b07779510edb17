"""
What a task function is given beside its parameters, and how it hears that it should stop.

A function calls ``checkpoint`` between pieces of its work, or ``progress``, which does the same. Both may be called
from any thread, and neither waits for the database: the runner writes progress down once a second.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from modern_fastapi.services import Services

T = TypeVar("T")


class Stopped(Exception):
    """
    Raised out of a checkpoint; the runner decides what becomes of the row.
    """


class Cancelled(Stopped):
    """
    Somebody asked for this task to end.
    """


class TimedOut(Stopped):
    """
    The task has used up its time.
    """


class Released(Stopped):
    """
    This process is stopping, or lost the row: whoever owns it next starts over.
    """


@dataclass(eq=False)
class TaskContext:
    """
    One attempt at one task.
    """

    task_id: str
    attempts: int
    failures: int
    created_at: str
    services: Services
    done: float = 0.0
    _verdict: type[Stopped] | None = None
    _heard: threading.Event = field(default_factory=threading.Event)

    def stop(self, verdict: type[Stopped]) -> None:
        """
        Makes the next checkpoint raise ``verdict``. The first reason stays.
        """
        if self._verdict is None:
            self._verdict = verdict
            self._heard.set()

    @property
    def verdict(self) -> type[Stopped] | None:
        """
        Why the task should stop, or None.
        """
        return self._verdict

    def checkpoint(self) -> None:
        """
        Raises ``Stopped`` where the task should not go on.
        """
        if self._verdict is not None:
            raise self._verdict

    def progress(self, share: float) -> None:
        """
        Notes that ``share`` (0 to 1) of the work is done, and is a checkpoint.
        """
        self.done = min(1.0, max(0.0, share))
        self.checkpoint()

    async def in_thread(self, function: Callable[[], T], executor: Executor | None = None) -> T:
        """
        Runs ``function`` in a thread of the application and waits for its end, even when the waiting is cancelled:
        a thread that still writes must not be taken for a finished one.
        """
        future = asyncio.get_running_loop().run_in_executor(executor or self.services.threads, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.stop(Released)
            await asyncio.wait([future])
            raise
