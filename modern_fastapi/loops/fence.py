"""
The fence: a row for each loop that says under which epoch it may write.

Whoever takes a loop over raises the epoch. Every write of a loop reads the row in the same transaction, and is
refused where the epoch is another: a former owner that was paused, or hangs in a thread, can wake up and do no harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, and_, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import Clock, as_text
from modern_fastapi.database import Database
from modern_fastapi.lanes import Work
from modern_fastapi.schema import LOOPS, Loop, Tick

T = TypeVar("T")


# Built once, because building costs more than running. The row is locked for a change at once: nearly all who look go
# on to change it, and two that shared it first would wait for each other.
PRESENT = select(LOOPS.c.epoch).where(LOOPS.c.name == bindparam("loop")).with_for_update()
BEATEN = (
    update(LOOPS)
    .where(LOOPS.c.name == bindparam("loop"), LOOPS.c.epoch == bindparam("held"))
    .values(
        owner=bindparam("holder"), state="running", last_tick=bindparam("moment"), ticks=LOOPS.c.ticks + bindparam("by")
    )
)


class Fenced(Exception):
    """
    Another owner has this loop now; ``epoch`` is the one that the fence has.
    """

    def __init__(self, name: str, epoch: int, ours: int) -> None:
        super().__init__(f"the loop {name} belongs to another owner: the fence has epoch {epoch}, ours is {ours}")
        self.epoch = epoch


class AlreadyTicked(Exception):
    """
    Somebody else has done this tick.
    """


@dataclass(frozen=True)
class Fence:
    """
    The right to write as the loop ``name``, as long as the epoch stays.
    """

    database: Database
    clock: Clock
    name: str
    owner: str
    epoch: int

    @classmethod
    async def take(cls, database: Database, clock: Clock, name: str, owner: str, epoch: int | None) -> Fence:
        """
        Takes the loop. With an ``epoch`` the fence is raised to it, and is refused where it is higher already;
        without one the loop goes on under the epoch that is there.
        """
        async with database.write() as connection:
            present = (await connection.execute(select(Loop.epoch).where(Loop.name == name).with_for_update())).scalar()
            if present is None:
                present = 0
                await connection.execute(database.insert(Loop).values(name=name, epoch=0, ticks=0, errors=0))
            taken = present if epoch is None else epoch
            if taken < present:
                raise Fenced(name, present, taken)
            claimed = update(Loop).where(Loop.name == name)
            await connection.execute(
                claimed.values(epoch=taken, owner=owner, state="running", last_tick=as_text(clock.now()))
            )
        return cls(database, clock, name, owner, taken)

    @classmethod
    async def visit(cls, database: Database, clock: Clock, name: str, owner: str) -> Fence:
        """
        The fence as it is, for a single tick: nobody is put out.
        """
        async with database.read() as connection:
            epoch = (await connection.execute(select(Loop.epoch).where(Loop.name == name))).scalar_one()
        return cls(database, clock, name, owner, epoch)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """
        A write transaction of this loop. Raises ``Fenced`` where the loop has a new owner.
        """
        async with self.database.write() as connection:
            await self._check(connection)
            yield connection

    async def work(self, work: Work[T], *, durable: bool = True) -> T:
        """
        The same as ``write``, for work that is done in one go.
        """

        async def checked(connection: AsyncConnection) -> T:
            await self._check(connection)
            return await work(connection)

        return await self.database.work(checked, durable=durable)

    async def _check(self, connection: AsyncConnection) -> None:
        # The lock (of the row, or of SQLite's file) keeps the epoch as it is until our commit.
        present = (await connection.execute(PRESENT, {"loop": self.name})).scalar_one()
        if present != self.epoch:
            raise Fenced(self.name, present, self.epoch)

    @asynccontextmanager
    async def tick(self, scheduled: datetime) -> AsyncIterator[AsyncConnection]:
        """
        The write transaction of one tick. Its key, ``name@time``, is committed with it, so that of several
        schedulers only one does it: the others get ``AlreadyTicked``.
        """
        async with self.write() as connection:
            key = f"{self.name}@{as_text(scheduled)}"
            now = as_text(self.clock.now())
            mark = self.database.insert(Tick).values(
                key=key, loop=self.name, owner=self.owner, epoch=self.epoch, committed_at=now
            )
            unless_done = mark.on_conflict_do_nothing(index_elements=["key"]).returning(Tick.key)
            if (await connection.execute(unless_done)).scalar() is None:
                raise AlreadyTicked(key)
            yield connection
            await self.beat(connection, ticked=True)

    async def beat(self, connection: AsyncConnection, *, ticked: bool = False) -> None:
        """
        Says that the loop runs. Part of a transaction of ``write``.
        """
        asked = {"loop": self.name, "held": self.epoch, "holder": self.owner, "by": int(ticked)}
        await connection.execute(BEATEN, {**asked, "moment": as_text(self.clock.now())})

    async def failed(self, error: BaseException) -> None:
        """
        Counts a tick that raised.
        """
        text = f"{type(error).__name__}: {error}"[:2000]
        async with self.write() as connection:
            await connection.execute(update(Loop).where(self._ours()).values(errors=Loop.errors + 1, last_error=text))

    async def leave(self, state: str) -> None:
        """
        Says how the loop ended, unless it is somebody else's by now.
        """
        async with self.database.write() as connection:
            await connection.execute(
                update(Loop).where(Loop.name == self.name, Loop.owner == self.owner).values(state=state)
            )

    def _ours(self) -> ColumnElement[bool]:
        return and_(Loop.name == self.name, Loop.epoch == self.epoch)
