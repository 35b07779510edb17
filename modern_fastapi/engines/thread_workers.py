"""
One ``Worker`` for each thread that a broker's worker process runs tasks in, made when the thread's first task comes.

Celery's prefork has one such thread in each process, its threads pool and Dramatiq have several.
"""

import threading
from contextlib import ExitStack

from modern_fastapi.lanes import Writers
from modern_fastapi.settings import Settings

from .worker import Worker


class ThreadWorkers:
    """
    The workers of this process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._local = threading.local()
        self._writers = Writers()

    def execute(self, task_id: str) -> None:
        """
        Runs a row in this thread.
        """
        self._here().execute(task_id)

    def tick(self, name: str) -> None:
        """
        Does a loop's tick in this thread.
        """
        self._here().tick(name)

    def _here(self) -> Worker:
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            self._local.stack = ExitStack()
            worker = self._local.worker = self._local.stack.enter_context(Worker(self._settings, self._writers))
        return worker

    def close(self) -> None:
        """
        Closes this thread's worker. Those of other threads end with the process: their rows are told from the living
        by their process.
        """
        stack: ExitStack | None = getattr(self._local, "stack", None)
        if stack is not None:
            del self._local.worker, self._local.stack
            stack.close()
