"""
The statements that run for every few tasks, built once: building one costs more than running it.
"""

from __future__ import annotations

from sqlalchemy import Integer, and_, bindparam, func, insert, or_, select, text, update

from modern_fastapi.schema import FINAL, TASKS, Status

# Written out and not bound, so that the planners of both databases see that the partial indexes fit.
WAITING = text("tasks.status IN ('PENDING', 'RETRY')")
RUNNING = text("tasks.status = 'RUNNING'")

NEW = insert(TASKS)
_BEFORE = TASKS.alias("before")

CLAIMABLE = and_(
    WAITING,
    TASKS.c.cancel_requested == 0,
    or_(
        TASKS.c.after_id.is_(None),
        ~select(1).where(_BEFORE.c.id == TASKS.c.after_id, _BEFORE.c.status.not_in(FINAL)).exists(),
    ),
)
DUE = (
    select(TASKS.c.seq, TASKS.c.id, TASKS.c.name, TASKS.c.attempts, TASKS.c.run_at)
    .where(CLAIMABLE, TASKS.c.run_at <= bindparam("until"), TASKS.c.engine == bindparam("engine"))
    .order_by(TASKS.c.priority.desc(), TASKS.c.run_at, TASKS.c.seq)
    .limit(bindparam("most", type_=Integer))
)
DUE_LOCKED = DUE.with_for_update(skip_locked=True)
ASKED = select(TASKS.c.seq, TASKS.c.id, TASKS.c.name).where(
    TASKS.c.id.in_(bindparam("ids", expanding=True)), CLAIMABLE, TASKS.c.run_at <= bindparam("until")
)
# Who asks for several passes over what somebody else has locked: two of them could wait for each other. Who asks for
# one waits for it: its relay locks it for a moment, to note that it was handed over, and who is refused asks no more.
ASKED_FOR_ONE = ASKED.with_for_update()
ASKED_FOR_SEVERAL = ASKED.with_for_update(skip_locked=True)
SOONEST = select(func.min(TASKS.c.run_at)).where(
    CLAIMABLE, TASKS.c.engine == bindparam("engine"), TASKS.c.run_at > bindparam("after")
)
TAKEN = (
    update(TASKS)
    .where(TASKS.c.seq.in_(bindparam("seqs", expanding=True)))
    .values(
        status=Status.RUNNING.value,
        owner=bindparam("taker"),
        attempts=TASKS.c.attempts + 1,
        heartbeat=0,
        started_at=bindparam("moment"),
    )
    .returning(
        TASKS.c.seq,
        TASKS.c.id,
        TASKS.c.name,
        TASKS.c.params,
        TASKS.c.attempts,
        TASKS.c.failures,
        TASKS.c.max_attempts,
        TASKS.c.timeout,
        TASKS.c.created_at,
    )
)
SUCCEEDED = (
    update(TASKS)
    .where(
        TASKS.c.id == bindparam("held_id"),
        TASKS.c.attempts == bindparam("held_attempts"),
        TASKS.c.owner == bindparam("holder"),
        RUNNING,
    )
    .values(
        status=Status.SUCCESS.value,
        progress=1.0,
        error=None,
        finished_at=bindparam("moment"),
        result=bindparam("the_result"),
    )
)

# Whoever was given these by a broker was refused: the message is spent.
UNSENT = (
    update(TASKS)
    .where(TASKS.c.seq.in_(bindparam("seqs", expanding=True)), TASKS.c.handed > TASKS.c.attempts)
    .values(handed=0)
)
