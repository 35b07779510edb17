"""
The Celery application, as the relay publishes with it and the workers run it.

Its settings close Celery's own gaps: a message is acknowledged when its row has ended, a killed worker's message comes
back within seconds, and a publisher gives up soon, because the row waits in the table anyway.
"""

from typing import Any

from celery import Celery

from modern_fastapi.settings import Settings

from .brokers import LONGEST_TASK, QUEUE, broker_url

# Explicit: a name that is derived from a module reaches nobody when the module moves.
EXECUTE = "jobs.execute"


def make_celery(settings: Settings) -> Celery:
    """
    A Celery application on the settings' broker.
    """
    url = broker_url(settings)
    app = Celery("jobs", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=LONGEST_TASK,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=30,
        worker_hijack_root_logger=False,
        broker_connection_timeout=1,
        broker_connection_retry_on_startup=True,
        broker_pool_acquire_timeout=2,
        broker_transport_options=_transport_options(url),
    )
    return app


def _transport_options(url: str) -> dict[str, Any]:
    if url.startswith("amqp"):
        return {"confirm_publish": True, "max_retries": 0}
    return {
        "socket_timeout": 2,
        "socket_connect_timeout": 1,
        "max_retries": 0,
        "visibility_timeout": LONGEST_TASK + 60,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
