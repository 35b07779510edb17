"""
What an RQ worker runs: ``rq worker jobs --url … -w modern_fastapi.engines.rq_worker.LeanWorker``.

It runs its jobs itself, one after another, with one connection to the database for all. RQ's usual worker forks for
each job; that works too (``-c modern_fastapi.engines.rq_worker`` has it import this module), and costs a new connection
each time.
"""

import atexit
import os
import time
from typing import Any

from rq import SimpleWorker

from modern_fastapi.settings import load_settings

from .thread_workers import ThreadWorkers
from .worker import Worker

settings = load_settings()
workers = ThreadWorkers(settings)
own = os.getpid()
atexit.register(workers.close)

# Seconds for which a sign of life is news enough; RQ takes a worker for dead after minutes.
FRESH = 5.0


def execute(task_id: str) -> None:
    """
    Runs one row, with the settings of the environment.
    """
    if os.getpid() == own:
        workers.execute(task_id)
        return
    with Worker(settings) as worker:
        worker.execute(task_id)


class LeanWorker(SimpleWorker):
    """
    RQ's simple worker, without the half of its round trips that tell Redis what it knows: around each short job, RQ
    says three times in a row that the worker lives, and twice that it is idle.
    """

    _lived = float("-inf")
    _said = ""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """
        Says that the worker lives: always where the words travel with others, as before each wait for a job, and by
        themselves at most once in 5 s.
        """
        now = time.monotonic()
        if pipeline is None and now < self._lived + FRESH:
            return
        super().heartbeat(timeout, pipeline)
        self._lived = now

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """
        Says what the worker does, if it is something new.
        """
        if state != self._said:
            super().set_state(state, pipeline)
            self._said = state
