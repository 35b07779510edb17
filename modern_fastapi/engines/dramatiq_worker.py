"""
What a Dramatiq worker loads: ``dramatiq modern_fastapi.engines.dramatiq_worker``.

Importing it reads the settings from the environment, because Dramatiq finds actors by importing them.
"""

from typing import Any

import dramatiq

from modern_fastapi.settings import load_settings

from .brokers import DRAMATIQ_QUEUE, LONGEST_TASK
from .dramatiq_broker import ACTOR, make_broker
from .thread_workers import ThreadWorkers

settings = load_settings()
broker = make_broker(settings)
dramatiq.set_broker(broker)
workers = ThreadWorkers(settings)


class CloseWorkers(dramatiq.Middleware):
    """
    Ends what a thread's worker has started. A child process that was left would be waited for at the exit, for ever.
    """

    def before_worker_thread_shutdown(self, broker: dramatiq.Broker, thread: Any) -> None:
        """
        Called in the thread, after its last message.
        """
        workers.close()


broker.add_middleware(CloseWorkers())


@dramatiq.actor(actor_name=ACTOR, queue_name=DRAMATIQ_QUEUE, broker=broker, time_limit=LONGEST_TASK * 1000)
def execute(task_id: str) -> None:
    """
    Runs one row.
    """
    workers.execute(task_id)
