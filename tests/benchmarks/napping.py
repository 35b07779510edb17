"""
Two tasks that the example hasn't, for the benchmark of tasks: one sleeps for 0.1 s, one does nothing. A worker of
Celery, RQ or Dramatiq loads this module in place of the example's own.

And what each of these can do by itself, without a row of ours: `alone` sleeps too, and writes its end into a file.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from modern_fastapi import services
from modern_fastapi.engines.brokers import DRAMATIQ_QUEUE, QUEUE
from modern_fastapi.settings import Settings
from modern_fastapi.tasks.context import TaskContext
from modern_fastapi.tasks.kinds import KINDS, Kind


class Nothing(BaseModel):
    """
    No parameters.
    """


async def nap(context: TaskContext, params: Nothing) -> None:
    await asyncio.sleep(0.1)


async def nothing(context: TaskContext, params: Nothing) -> None:
    return None


def alone(ends: str) -> None:
    time.sleep(0.1)
    with Path(ends).open("a") as file:
        file.write(f"{time.time()}\n")


def sender(engine: str, settings: Settings) -> Callable[[str], object]:
    """
    What sends a message for `alone`, as the engine's own users do.
    """
    if engine == "celery":
        from modern_fastapi.engines.celery_app import make_celery

        app = make_celery(settings)
        return lambda ends: app.send_task("bench.alone", args=[ends], ignore_result=True)
    if engine == "rq":
        from redis import Redis
        from rq import Queue

        queue = Queue(QUEUE, connection=Redis.from_url(str(settings.broker)))
        return lambda ends: queue.enqueue("tests.benchmarks.napping.alone", ends, result_ttl=0)
    from dramatiq import Message

    from modern_fastapi.engines.dramatiq_broker import make_broker

    broker = make_broker(settings)
    broker.declare_queue(DRAMATIQ_QUEUE)
    return lambda ends: broker.enqueue(
        Message(queue_name=DRAMATIQ_QUEUE, actor_name="alone", args=(ends,), kwargs={}, options={})
    )


services.KINDS = {
    **KINDS,
    "bench.nap": Kind("bench.nap", Nothing, nap),
    "bench.nothing": Kind("bench.nothing", Nothing, nothing),
}

if os.environ.get("JOBS_ENGINE") == "celery":
    from modern_fastapi.engines.celery_worker import app

    app.task(name="bench.alone")(alone)
elif os.environ.get("JOBS_ENGINE") == "dramatiq":
    import dramatiq

    from modern_fastapi.engines.dramatiq_worker import broker

    dramatiq.actor(actor_name="alone", queue_name=DRAMATIQ_QUEUE, broker=broker)(alone)
elif os.environ.get("JOBS_ENGINE") == "rq":
    from modern_fastapi.engines.rq_worker import LeanWorker  # noqa: F401
