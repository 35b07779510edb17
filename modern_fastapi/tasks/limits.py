"""
How much of one kind of task may run: how many at once, how many starts in a second, and whether any may start.
"""

from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import Clock, as_text
from modern_fastapi.database import Database
from modern_fastapi.schema import LIMITS, Limit, Status, Task

LOOKED_AT = select(LIMITS)
LOCKED = LOOKED_AT.with_for_update()


async def allowances(connection: AsyncConnection, clock: Clock, *, lock: bool = True) -> dict[str, int]:
    """
    How many tasks of each limited name may start now. Part of the transaction that claims them: the limits' rows stay
    locked until its end, so that two processes cannot both take the last place. Without the ``lock`` it is only a look.
    """
    rows = (await connection.execute(LOCKED if lock else LOOKED_AT)).all()
    found: dict[str, int] = {}
    for row in rows:
        left = []
        if row.paused:
            left.append(0)
        if row.concurrency is not None:
            running = select(func.count()).where(Task.name == row.name, Task.status == Status.RUNNING)
            left.append(row.concurrency - ((await connection.execute(running)).scalar() or 0))
        if row.rate is not None:
            # A rate below one in a second allows one start in each longer span.
            span = max(1.0, 1.0 / row.rate) if row.rate > 0 else 1.0
            since = as_text(clock.now() - timedelta(seconds=span))
            started = select(func.count()).where(Task.name == row.name, Task.started_at > since)
            left.append(int(row.rate * span) - ((await connection.execute(started)).scalar() or 0))
        if left:
            found[row.name] = max(0, min(left))
    return found


async def limit(database: Database, name: str, *, concurrency: int | None = None, rate: float | None = None) -> None:
    """
    Sets both limits of a name; None takes one away.
    """
    values = {"concurrency": concurrency, "rate": rate}
    await _set(database, name, values)


async def pause(database: Database, name: str, paused: bool = True) -> None:
    """
    Stops new starts of a name, or lets them go on. What runs is not touched.
    """
    await _set(database, name, {"paused": int(paused)})


async def _set(database: Database, name: str, values: dict[str, float | int | None]) -> None:
    async with database.write() as connection:
        insert = database.insert(Limit).values(name=name, **{"paused": 0, **values})
        await connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
        await connection.execute(update(Limit).where(Limit.name == name).values(**values))
