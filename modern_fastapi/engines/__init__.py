"""
The ways to run a row, chosen by the setting ``engine``. Whatever the way, the row is written first and ends the same.

- ``base``      what an engine is
- ``table``     the durable table and the ``consumer`` loop: the default
- ``local``     in this process: after the response, as asyncio tasks, or in threads
- ``brokers``   Celery, RQ and Dramatiq, with the row as the outbox
- ``relay``     hands due rows to an engine, again where it lost them
- ``worker``    runs rows for whoever has no event loop
"""

from .base import Engine
from .choice import make_engine

__all__ = ["Engine", "make_engine"]
