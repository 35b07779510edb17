"""
The ways to run a row, chosen by the setting ``engine``. Whatever the way, the row is written first and ends the same.

- ``base``      what an engine is
- ``table``     the durable table and the ``consumer`` loop: the default
- ``local``     in this process: after the response, as asyncio tasks, or in threads
- ``brokers``   Celery, RQ and Dramatiq, with the row as the outbox
- ``relay``     hands due rows to an engine, again where it lost them
- ``worker``    runs rows for whoever has no event loop

Workers, with the same ``JOBS_*`` as the server, and ``JOBS_BROKER`` naming Redis or RabbitMQ::

    celery -A modern_fastapi.engines.celery_worker worker --concurrency 4
    celery -A modern_fastapi.engines.celery_worker beat
    celery -A modern_fastapi.engines.celery_worker flower
    rq worker jobs --url redis://127.0.0.1:6379/0 -w rq.SimpleWorker -c modern_fastapi.engines.rq_worker
    dramatiq modern_fastapi.engines.dramatiq_worker --processes 2 --threads 8
"""

from .base import Engine
from .choice import make_engine

__all__ = ["Engine", "make_engine"]
