"""
The statements that bring rows to an engine other than the table's, and find out what became of them.

A row says itself which attempt its broker has a message for, and since when. Nothing here claims a row: whoever gets
the message does, or is refused, and then the row has no message any more; where clocks differ, the relay finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import and_, bindparam, case, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import Clock, as_text, from_text, later
from modern_fastapi.schema import TASKS, Task

from .limits import allowances
from .rows import Due, within
from .statements import DUE, RUNNING, WAITING

# As the index has it. A row's next attempt is one more than it was started for.
UNHANDED = and_(WAITING, text("tasks.engine <> 'table'"), text("tasks.handed <= tasks.attempts"))
TO_HAND_OVER = DUE.where(UNHANDED)
HANDED = and_(WAITING, TASKS.c.engine == bindparam("engine_"), TASKS.c.handed > TASKS.c.attempts)
EACH = and_(TASKS.c.id == bindparam("given"), TASKS.c.attempts == bindparam("before"), WAITING)
# What stands in `handed` where the message is taken for lost. It may be there all the same, before the next one.
DOUBTED = -1
REACHED = select(func.max(TASKS.c.handed_at)).where(RUNNING, TASKS.c.engine == bindparam("engine_"))


class Outbox:
    """
    The rows on their way to an engine.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def to_hand_over(self, connection: AsyncConnection, engine: str, until: str, limit: int) -> list[Due]:
        """
        The rows that were due at ``until`` and that their broker has no message for. Of a limited name only as many as
        may start now: whoever got another one would be refused.
        """
        left = await allowances(connection, self._clock, lock=False)
        for name in left:
            counted = select(func.count()).select_from(TASKS).where(HANDED, TASKS.c.name == name)
            left[name] -= (await connection.execute(counted, {"engine_": engine})).scalar() or 0
        rows = await within(connection, TO_HAND_OVER, {"engine": engine, "until": until}, limit, left)
        return [(row.id, row.attempts) for row in rows]

    async def handed_over(self, connection: AsyncConnection, rows: Sequence[Due]) -> None:
        """
        Notes that the broker has a message for the next attempt of each, and since when. Of one that may have two it is
        not known which of them comes: it tells nothing about the others, and they nothing about it.
        """
        now = as_text(self._clock.now())
        since = case((TASKS.c.handed == DOUBTED, None), else_=bindparam("moment"))
        noted = update(TASKS).where(EACH).values(handed=bindparam("next"), handed_at=since)
        many = [
            {"given": task_id, "before": attempts, "next": attempts + 1, "moment": now} for task_id, attempts in rows
        ]
        await connection.execute(noted, many)

    async def count(self, connection: AsyncConnection, engine: str) -> int:
        """
        How many rows of an engine wait, and were handed over.
        """
        counted = select(func.count()).select_from(TASKS).where(HANDED)
        return (await connection.execute(counted, {"engine_": engine})).scalar() or 0

    async def reached(self, connection: AsyncConnection, engine: str) -> str | None:
        """
        When the latest message was given of those whose rows run now.
        """
        latest: str | None = (await connection.execute(REACHED, {"engine_": engine})).scalar()
        return latest

    async def overtaken(
        self, connection: AsyncConnection, engine: str, reached: str, by: float, limit: int
    ) -> list[Due]:
        """
        The rows that wait, though their message was given more than ``by`` seconds before one that was ``reached``.
        """
        before = as_text(from_text(reached) - timedelta(seconds=by))
        page = select(TASKS.c.id, TASKS.c.attempts).where(HANDED, TASKS.c.handed_at < before).limit(limit)
        return [(row.id, row.attempts) for row in await connection.execute(page, {"engine_": engine})]

    async def forget(self, connection: AsyncConnection, rows: Sequence[Due]) -> None:
        """
        These seem to have no message any more, and are to be handed over again.
        """
        many = [{"given": task_id, "before": attempts} for task_id, attempts in rows]
        await connection.execute(update(TASKS).where(EACH).values(handed=DOUBTED), many)

    async def forget_one(self, connection: AsyncConnection, engine: str) -> None:
        """
        One of those that wait is to be handed over again, to see whether that can be done.
        """
        one = select(TASKS.c.id).where(HANDED).order_by(TASKS.c.seq).limit(1).scalar_subquery()
        await connection.execute(update(TASKS).where(TASKS.c.id == one).values(handed=DOUBTED), {"engine_": engine})

    async def forget_all(self, connection: AsyncConnection, engine: str) -> None:
        """
        The broker has lost what it was given: all that wait are to be handed over again.
        """
        await connection.execute(update(TASKS).where(HANDED).values(handed=0), {"engine_": engine})

    async def move_to_table(self, connection: AsyncConnection, engine: str, until: str, limit: int) -> int:
        """
        Leaves up to ``limit`` rows that were due at ``until`` to the consumers, where their own engine cannot be
        reached: those that it was given before it went are no better off there. Returns how many.
        """
        page = select(TASKS.c.seq).where(WAITING, TASKS.c.engine == engine, TASKS.c.run_at <= until).limit(limit)
        # What somebody has locked is about to be run.
        some = TASKS.c.seq.in_(page.with_for_update(skip_locked=True))
        return (await connection.execute(update(TASKS).where(some, WAITING).values(engine="table"))).rowcount

    async def adopt_strays(self, connection: AsyncConnection, engine: str, overdue: float) -> int:
        """
        Leaves to the consumers what waits for another engine than ``engine`` and is ``overdue`` seconds late: nobody
        may be there who runs that engine. Returns how many.
        """
        before = later(self._clock.now(), -overdue)
        strays = update(Task).where(WAITING, Task.engine.not_in(("table", engine)), Task.run_at < before)
        return (await connection.execute(strays.values(engine="table"))).rowcount
