"""
What an RQ worker runs: ``rq worker jobs --url … -w rq.SimpleWorker -c modern_fastapi.engines.rq_worker``.

The simple worker runs its jobs itself, one after another, with one connection to the database for all. RQ's usual one
forks for each job; that works too, and costs a new connection each time. ``-c`` has the worker import this module.
"""

import atexit
import os

from modern_fastapi.settings import load_settings

from .thread_workers import ThreadWorkers
from .worker import Worker

settings = load_settings()
workers = ThreadWorkers(settings)
own = os.getpid()
atexit.register(workers.close)


def execute(task_id: str) -> None:
    """
    Runs one row, with the settings of the environment.
    """
    if os.getpid() == own:
        workers.execute(task_id)
        return
    with Worker(settings) as worker:
        worker.execute(task_id)
