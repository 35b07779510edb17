"""
The Celery application, as the relay publishes with it and the workers run it.

Its settings close Celery's own gaps: a message is acknowledged when its row has ended, a killed worker's message comes
back within seconds, and a publisher gives up soon, because the row waits in the table anyway. Beat sends the ticks of
the loops; each has a key, so that two Beats, or Beat beside a running server, still tick once.
"""

from typing import Any

from celery import Celery
from celery.schedules import crontab

from modern_fastapi.loops import cache_refresh, cleanup
from modern_fastapi.settings import Settings

from .brokers import LONGEST_TASK, QUEUE, broker_url

# Explicit: a name that is derived from a module reaches nobody when the module moves.
EXECUTE = "jobs.execute"
TICK = "jobs.tick"


def make_celery(settings: Settings) -> Celery:
    """
    A Celery application on the settings' broker.
    """
    url = broker_url(settings)
    app = Celery("jobs", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        # What Flower shows.
        worker_send_task_events=True,
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
        timezone="UTC",
        beat_schedule={
            "cache_refresh": {"task": TICK, "schedule": cache_refresh.INTERVAL, "args": ["cache_refresh"]},
            "cleanup": {"task": TICK, "schedule": cleanup.INTERVAL, "args": ["cleanup"]},
            "daily_report": {"task": TICK, "schedule": crontab(hour=0, minute=0), "args": ["daily_report"]},
        },
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
