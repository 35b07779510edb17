"""
Owns the end of a loop that we own: tasks are cancelled and awaited, asynchronous generators
closed, the loop's own threads joined.

Refuses: to wait for ever. What ignores its cancellation is named in the log and left.
"""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import AbstractEventLoop
from typing import Any

from twisted.logger import Logger

_log = Logger()

#: Seconds for each of the steps.
_PATIENCE = 1.0


def tear_down(loop: AbstractEventLoop) -> None:
    """
    Leave nothing pending on a loop that doesn't run any more.
    """
    tasks = asyncio.all_tasks(loop)
    if tasks:
        loop.run_until_complete(end_tasks(tasks, _PATIENCE))
    loop.run_until_complete(_bounded(loop.shutdown_asyncgens(), "asynchronous generators"))
    loop.run_until_complete(_bounded(loop.shutdown_default_executor(), "the loop's executor"))


async def end_tasks(tasks: set[asyncio.Task[Any]], patience: float) -> set[asyncio.Task[Any]]:
    """
    Cancel the tasks and wait for their clean-up, for C{patience} seconds. Returns those that ignored it.
    """
    for task in tasks:
        task.cancel()
    done, pending = await asyncio.wait(tasks, timeout=patience)
    for task in pending:
        _log.error("Task {task} ignored its cancellation and is left behind.", task=task.get_name())
    for task in done:
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.error("Task {task} failed while it was being cancelled: {exc!r}", task=task.get_name(), exc=exc)
    return pending


async def _bounded(step: object, what: str) -> None:
    task = asyncio.ensure_future(step)  # type: ignore[call-overload]
    _, pending = await asyncio.wait({task}, timeout=_PATIENCE)
    if pending:
        task.cancel()
        _log.error("Closing {what} took longer than {patience} s and is left.", what=what, patience=_PATIENCE)
    elif not task.cancelled() and (exc := task.exception()) is not None:
        _log.error("Closing {what} failed: {exc!r}", what=what, exc=exc)


def stuck_threads(patience: float) -> list[str]:
    """
    The threads of anyio and of the loop's executor that outlive their loop by more than C{patience} seconds.

    Python joins these at exit, however long that takes. Runs when no loop does.
    """
    until = time.monotonic() + patience
    stuck: list[str] = []
    for thread in threading.enumerate():
        if thread.name.startswith(("AnyIO worker", "asyncio_")) and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                stuck.append(thread.name)
    return stuck
