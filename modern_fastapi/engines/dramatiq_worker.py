"""
What a Dramatiq worker loads: ``dramatiq modern_fastapi.engines.dramatiq_worker``.

Importing it reads the settings from the environment, because Dramatiq finds actors by importing them.
"""

import dramatiq

from modern_fastapi.settings import load_settings

from .brokers import DRAMATIQ_QUEUE, LONGEST_TASK
from .dramatiq_broker import ACTOR, make_broker
from .thread_workers import ThreadWorkers

settings = load_settings()
broker = make_broker(settings)
dramatiq.set_broker(broker)
workers = ThreadWorkers(settings)


@dramatiq.actor(actor_name=ACTOR, queue_name=DRAMATIQ_QUEUE, broker=broker, time_limit=LONGEST_TASK * 1000)
def execute(task_id: str) -> None:
    """
    Runs one row.
    """
    workers.execute(task_id)
