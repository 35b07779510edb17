"""
What a Celery worker loads: ``celery -A modern_fastapi.engines.celery_worker worker``.

Importing it reads the settings from the environment, because Celery finds an application by importing it. ``-P
prefork`` and ``-P threads`` both work.
"""

from celery.signals import worker_process_shutdown, worker_shutdown

from modern_fastapi.settings import load_settings

from .celery_app import EXECUTE, TICK, make_celery
from .thread_workers import ThreadWorkers

settings = load_settings()
app = make_celery(settings)
workers = ThreadWorkers(settings)


@app.task(name=EXECUTE)  # type: ignore[untyped-decorator]
def execute(task_id: str) -> None:
    """
    Runs one row. Not a coroutine: Celery has no event loop to run it on, and would report success with the object.
    """
    workers.execute(task_id)


@app.task(name=TICK)  # type: ignore[untyped-decorator]
def tick(name: str) -> None:
    """
    Does the tick of a loop, for ``celery … beat``.
    """
    workers.tick(name)


def _close(**_: object) -> None:
    workers.close()


worker_process_shutdown.connect(_close, weak=False)
worker_shutdown.connect(_close, weak=False)
