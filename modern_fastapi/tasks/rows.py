"""
What is done with the rows of the tasks table. One is claimed for one process and one attempt, and only these two may
end it.

Every method that changes rows takes an open write transaction: whose it is decides the caller, because the writes of a
loop have to pass its fence.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, case, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.clock import Clock, as_text, later
from modern_fastapi.database import Database
from modern_fastapi.schema import TASKS, Status, Task

from .limits import allowances
from .statements import (
    ASKED_FOR_ONE,
    ASKED_FOR_SEVERAL,
    DUE,
    DUE_LOCKED,
    NEW,
    RUNNING,
    SOONEST,
    SUCCEEDED,
    TAKEN,
    UNSENT,
    WAITING,
)

MAX_RESCUES = 20
MAX_ERROR = 2000
BACKOFF_FIRST = 0.2
BACKOFF_CAP = 30.0

# A row that waits, and how often it was started before.
Due = tuple[str, int]
# What `DUE` finds.
Found = Row[int, str, str, int, str]


async def within(
    connection: AsyncConnection,
    page: Select[int, str, str, int, str],
    asked: dict[str, Any],
    most: int,
    left: dict[str, int],
) -> list[Found]:
    """
    The first ``most`` rows of a page, of each limited name no more than are ``left``, which is counted down.
    """
    chosen: list[Found] = []
    while len(chosen) < most:
        rest = page
        if left:
            spent = [name for name, count in left.items() if count <= 0]
            rest = page.where(TASKS.c.name.not_in(spent), TASKS.c.seq.not_in([row.seq for row in chosen]))
        rows = (await connection.execute(rest, {**asked, "most": most - len(chosen)})).all()
        for row in rows:
            if left.get(row.name, 1) > 0:
                chosen.append(row)
                if row.name in left:
                    left[row.name] -= 1
        if not left or not rows:
            break
    return chosen


@dataclass(frozen=True)
class NewTask:
    """
    Work to be done, before it has a row.
    """

    name: str
    params: dict[str, Any]
    after_id: str | None = None
    key: str | None = None
    delay: float = 0.0
    priority: int = 0
    max_attempts: int = 3
    timeout: float | None = None
    expires_in: float | None = None


@dataclass(frozen=True)
class Claim:
    """
    One attempt of one row, held by this process.
    """

    id: str
    name: str
    params: str
    attempts: int
    failures: int
    max_attempts: int
    timeout: float | None
    created_at: str


class TaskRows:
    """
    The tasks table, as one process sees it: ``boot_id`` owns what it claims.
    """

    def __init__(self, database: Database, clock: Clock, boot_id: str) -> None:
        self.database = database
        self.clock = clock
        self.boot_id = boot_id

    async def add(self, connection: AsyncConnection, task: NewTask, engine: str) -> str:
        """
        Inserts a row and returns its id; with a key that is taken already, the id of the row that has it.
        """
        now = self.clock.now()
        values = {
            "id": str(uuid.uuid4()),
            "name": task.name,
            "params": json.dumps(task.params),
            "engine": engine,
            "unique_key": task.key,
            "after_id": task.after_id,
            "priority": task.priority,
            "run_at": later(now, task.delay),
            "max_attempts": task.max_attempts,
            "timeout": task.timeout,
            "created_at": as_text(now),
            "expires_at": None if task.expires_in is None else later(now, task.expires_in),
        }
        if task.key is None:
            await connection.execute(NEW, values)
            return str(values["id"])
        keyed = self.database.insert(Task).values(**values)
        await connection.execute(keyed.on_conflict_do_nothing(index_elements=["unique_key"]))
        return (await connection.execute(select(Task.id).where(Task.unique_key == task.key))).scalar_one()

    async def claim(self, connection: AsyncConnection, limit: int) -> list[Claim]:
        """
        Takes up to ``limit`` due rows of the table engine, the most urgent first, as far as the limits allow.
        """
        until = as_text(self.clock.now())
        return await self._take(connection, [row.seq for row in await self.choose(connection, limit, until)])

    async def choose(self, connection: AsyncConnection, limit: int, until: str, *, lock: bool = True) -> list[Found]:
        """
        The rows that a claim takes, of those that were due at ``until``; without the ``lock`` somebody else may have
        them the next moment.
        """
        left = await allowances(connection, self.clock, lock=lock)
        asked = {"engine": "table", "until": until}
        return await within(connection, DUE_LOCKED if lock else DUE, asked, limit, left)

    async def claim_one(self, connection: AsyncConnection, task_id: str) -> Claim | None:
        """
        Takes one row by its id, whatever its engine, or nothing where it may not start yet.
        """
        return (await self.claim_each(connection, [task_id]))[0]

    async def claim_each(self, connection: AsyncConnection, task_ids: Sequence[str]) -> list[Claim | None]:
        """
        The same for several; their claims in the same order.
        """
        left = await allowances(connection, self.clock)
        asked = {"ids": task_ids, "until": as_text(self.clock.now())}
        page = ASKED_FOR_ONE if len(task_ids) == 1 else ASKED_FOR_SEVERAL
        found = {row.id: row for row in await connection.execute(page, asked)}
        chosen = []
        for task_id in dict.fromkeys(task_ids):
            row = found.get(task_id)
            if row is None or not left.get(row.name, 1):
                continue
            if row.name in left:
                left[row.name] -= 1
            chosen.append(row.seq)
        if refused := [row.seq for row in found.values() if row.seq not in chosen]:
            await connection.execute(UNSENT, {"seqs": refused})
        claims = {claim.id: claim for claim in await self._take(connection, chosen)}
        # Who asks twice for one row gets it once.
        return [claims.pop(task_id, None) for task_id in task_ids]

    async def due(
        self, connection: AsyncConnection, engine: str, until: str, limit: int = 1000, fresh: str | None = None
    ) -> list[Due]:
        """
        An engine's rows that were due at ``until``, the most urgent first; those that were never started only where
        they were due at ``fresh`` already. Names of which none may start now are left out: they would fill the look.
        """
        left = await allowances(connection, self.clock, lock=False)
        spent = [name for name, count in left.items() if not count]
        page = DUE.where(TASKS.c.name.not_in(spent)) if spent else DUE
        rows = await connection.execute(page, {"engine": engine, "until": until, "most": limit})
        return [(row.id, row.attempts) for row in rows if fresh is None or row.attempts or row.run_at <= fresh]

    async def _take(self, connection: AsyncConnection, seqs: Sequence[int]) -> list[Claim]:
        if not seqs:
            return []
        asked = {"seqs": seqs, "taker": self.boot_id, "moment": as_text(self.clock.now())}
        rows = {row.seq: row for row in await connection.execute(TAKEN, asked)}
        return [Claim(*tuple(rows[seq])[1:]) for seq in seqs]

    async def next_due(self, connection: AsyncConnection, engine: str = "table", after: str = "") -> str | None:
        """
        When the next waiting row of an engine is due, as text; of those due after ``after``.
        """
        soonest: str | None = (await connection.execute(SOONEST, {"engine": engine, "after": after})).scalar()
        return soonest

    def _held(self, claim: Claim) -> ColumnElement[bool]:
        return and_(Task.id == claim.id, Task.owner == self.boot_id, Task.attempts == claim.attempts, RUNNING)

    async def succeed(self, connection: AsyncConnection, done: Sequence[tuple[Claim, Any]]) -> list[Claim]:
        """
        Ends attempts with their results. Returns those whose rows are not ours any more.
        """
        if not done:
            return []
        now = as_text(self.clock.now())
        shared = {"holder": self.boot_id, "moment": now}
        many = [
            # No result is no text, as the Twisted application writes it: both stacks share the column.
            {
                "held_id": claim.id,
                "held_attempts": claim.attempts,
                "the_result": None if result is None else json.dumps(result),
                **shared,
            }
            for claim, result in done
        ]
        if (await connection.execute(SUCCEEDED, many)).rowcount == len(done):
            return []
        mine = select(Task.id).where(Task.id.in_([claim.id for claim, _ in done]), Task.finished_at == now)
        kept = set((await connection.execute(mine.where(Task.owner == self.boot_id))).scalars())
        return [claim for claim, _ in done if claim.id not in kept]

    async def fail(self, connection: AsyncConnection, claim: Claim, error: str) -> bool:
        """
        Ends an attempt with an error: the row waits for its next attempt, or has failed for good.
        """
        failures = claim.failures + 1
        if failures >= claim.max_attempts:
            return await self._end(connection, claim, status=Status.FAILURE, failures=failures, error=error[:MAX_ERROR])
        pause = random.uniform(0.0, min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(claim.attempts, 20)))
        retry = (
            update(Task)
            .where(self._held(claim))
            .values(
                # Who cancelled while the attempt failed gets what was asked for, not another attempt.
                status=case((Task.cancel_requested == 1, Status.CANCELLED), else_=Status.RETRY),
                finished_at=case((Task.cancel_requested == 1, as_text(self.clock.now())), else_=None),
                failures=failures,
                error=error[:MAX_ERROR],
                run_at=later(self.clock.now(), pause),
                owner=None,
            )
        )
        return (await connection.execute(retry)).rowcount == 1

    async def end_cancelled(self, connection: AsyncConnection, claim: Claim) -> bool:
        """
        Ends an attempt that heard that it was cancelled.
        """
        return await self._end(connection, claim, status=Status.CANCELLED)

    async def release(self, connection: AsyncConnection, claim: Claim) -> bool:
        """
        Gives a row back unfinished, for anybody to claim at once.
        """
        back = update(Task).where(self._held(claim)).values(status=Status.PENDING, owner=None)
        return (await connection.execute(back)).rowcount == 1

    async def _end(self, connection: AsyncConnection, claim: Claim, **values: Any) -> bool:
        ended = update(Task).where(self._held(claim)).values(finished_at=as_text(self.clock.now()), **values)
        return (await connection.execute(ended)).rowcount == 1

    async def beat(self, connection: AsyncConnection, progress: dict[str, float]) -> dict[str, bool]:
        """
        Renews the rows that this process runs, ``progress`` by their ids.

        Returns, for each row that is still ours, whether it should be cancelled.
        """
        done = case(progress, value=Task.id, else_=Task.progress)
        renewed = (
            update(Task)
            .where(Task.owner == self.boot_id, RUNNING, Task.id.in_(list(progress)))
            .values(heartbeat=Task.heartbeat + 1, progress=done)
            .returning(Task.id, Task.cancel_requested)
        )
        return {row.id: bool(row.cancel_requested) for row in await connection.execute(renewed)}

    async def cancel(self, connection: AsyncConnection, task_id: str) -> Status | None:
        """
        Cancels a waiting row at once, and asks a running one to stop. Returns the status after that.
        """
        waiting = (
            update(Task)
            .where(Task.id == task_id, WAITING)
            .values(status=Status.CANCELLED, cancel_requested=1, finished_at=as_text(self.clock.now()))
        )
        if (await connection.execute(waiting)).rowcount:
            return Status.CANCELLED
        running = update(Task).where(Task.id == task_id, RUNNING).values(cancel_requested=1)
        return Status.RUNNING if (await connection.execute(running)).rowcount else None

    async def requeue(self, connection: AsyncConnection, task_id: str) -> bool:
        """
        Gives a task that has failed, or was cancelled, all its attempts again. False where it is neither.
        """
        again = (
            update(Task)
            .where(Task.id == task_id, Task.status.in_((Status.FAILURE, Status.CANCELLED)))
            .values(
                status=Status.PENDING,
                failures=0,
                rescues=0,
                cancel_requested=0,
                progress=0.0,
                error=None,
                finished_at=None,
                owner=None,
                engine="table",
                run_at=as_text(self.clock.now()),
            )
        )
        return (await connection.execute(again)).rowcount == 1

    async def rescue(
        self, connection: AsyncConnection, stale: Iterable[tuple[str, int, int]]
    ) -> tuple[list[str], list[str]]:
        """
        Puts rows back whose (id, attempts, heartbeat) did not change for too long.

        Returns the ids that wait again and those that died too often and have failed.
        """
        again: list[str] = []
        failed: list[str] = []
        rescues = Task.rescues + 1
        now = as_text(self.clock.now())
        for task_id, attempts, heartbeat in stale:
            same = and_(Task.id == task_id, Task.attempts == attempts, Task.heartbeat == heartbeat, RUNNING)
            put_back = (
                update(Task)
                .where(same)
                .values(
                    status=case(
                        (Task.cancel_requested == 1, Status.CANCELLED),
                        (rescues >= MAX_RESCUES, Status.FAILURE),
                        else_=Status.PENDING,
                    ),
                    error=case(
                        (and_(rescues >= MAX_RESCUES, Task.cancel_requested == 0), bindparam("died")), else_=Task.error
                    ),
                    finished_at=case((or_(rescues >= MAX_RESCUES, Task.cancel_requested == 1), now), else_=None),
                    rescues=rescues,
                    owner=None,
                )
                .returning(Task.status)
            )
            died = {"died": f"the process died {MAX_RESCUES} times"}
            status = (await connection.execute(put_back, died)).scalar()
            if status is not None:
                (again if status == Status.PENDING else failed).append(task_id)
        return again, failed
