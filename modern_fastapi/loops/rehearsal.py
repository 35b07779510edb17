"""
A dry run of a loop: what each tick would do is told, and nothing is written.

Whoever embeds the application may compare its loops with older ones before it hands the work over. It calls
``loop(None, observe=observe)``: ``observe(tick, effects)`` hears what a tick would do, and ``async for tick, facts in
observe`` gives the older loop's ticks just before they happen, with what they go by.

A dry run has a look at the database and no more: there is no write transaction, and no fence to pass one.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.database import Database
from modern_fastapi.lanes import Work
from modern_fastapi.services import Services
from modern_fastapi.tasks.rows import TaskRows

T = TypeVar("T")

Effect = tuple[str, str, Any]


class Observe(Protocol):
    """
    Who compares.
    """

    def __call__(self, tick: str, effects: Iterable[Effect]) -> None:
        """
        A tick would do this, each ``(kind, key, value)``.
        """

    def __aiter__(self) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """
        The ticks that are about to happen, with what they go by.
        """


Rehearsal = Callable[[Services, Observe], Awaitable[None]]


class WritesInRehearsal(Exception):
    """
    A dry run wanted to write.
    """

    def __init__(self) -> None:
        super().__init__("a dry run wanted to write, and has no right to: the other side owns the loop")


class LookOnly:
    """
    A database whose transactions only read; the database itself refuses anything else.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.url = database.url
        self.postgresql = database.postgresql

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """
        One transaction that sees one moment.
        """
        if self.postgresql:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            engine = self._database.engine.execution_options(**options)
            async with engine.connect() as connection:
                yield connection
            return
        async with self._database.engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA query_only = ON")
            await connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                await connection.exec_driver_sql("ROLLBACK")
                await connection.exec_driver_sql("PRAGMA query_only = OFF")

    async def look(self, work: Work[T]) -> T:
        """
        What ``work`` reads, all of one moment.
        """
        async with self.read() as connection:
            return await work(connection)

    async def work(self, work: Work[T]) -> T:
        """
        Refused.
        """
        raise WritesInRehearsal

    def write(self) -> AbstractAsyncContextManager[NoReturn]:
        """
        Refused.
        """
        raise WritesInRehearsal


async def rehearse(services: Services, rehearsal: Rehearsal, observe: Observe) -> None:
    """
    Runs a dry run until it is cancelled, on services that can't write.
    """
    looking = copy.copy(services)
    database: Any = LookOnly(services.database)
    looking.database = database
    looking.rows = TaskRows(database, services.clock, services.boot_id)
    await rehearsal(looking, observe)
