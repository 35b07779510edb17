"""
The table of tasks: each row is a promise that survives the process.

A row is written in the transaction of the request that asks for it,
claimed by one consumer (owner, attempt, heartbeat), and finished only by
that consumer in that attempt.  The functions here run inside a transaction
that the caller has opened, on whatever thread that is; none of them waits.
"""

import datetime
import json
import random
import uuid

TERMINAL = ("SUCCESS", "FAILURE", "CANCELLED")
STATUSES = ("PENDING", "RUNNING", "RETRY", *TERMINAL)
MAX_ATTEMPTS = {"email.send": 5, "email.welcome": 5}
MAX_RESCUES = 20
COLUMNS = (
    "id, name, status, attempts, progress, result, error, created_at, started_at, finished_at"
)


class Lost(Exception):
    """
    The row is no longer ours: somebody else has it, or it has ended.
    """


def timestamp(moment=None):
    """
    The form that all times have in the database and in answers.
    """
    moment = moment or datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def later(delay):
    """
    C{delay} seconds from now, as text.
    """
    now = datetime.datetime.now(datetime.UTC)
    return timestamp(now + datetime.timedelta(seconds=delay))


def until(moment):
    """
    Seconds from now to a time as the database has it.
    """
    when = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return (when - datetime.datetime.now(datetime.UTC)).total_seconds()


def insert(connection, name, params, after=None, engine="table", delay=0.0, priority=0, key=None):
    """
    Write a new row.

    @param after: the id of a task that must have ended before.
    @return: the new task's id.
    """
    taskId = str(uuid.uuid4())
    connection.execute(
        "INSERT INTO tasks (id, name, params, engine, after_id, run_at, priority, unique_key,"
        " max_attempts, created_at)"
        " VALUES (:id, :name, :params, :engine, :after, :run_at, :priority, :key,"
        " :max_attempts, :now)",
        id=taskId,
        name=name,
        params=json.dumps(params),
        engine=engine,
        after=after,
        run_at=later(delay),
        priority=priority,
        key=key,
        max_attempts=MAX_ATTEMPTS.get(name, 3),
        now=timestamp(),
    )
    return taskId


def describe(row):
    """
    A task as clients see it.
    """
    return {
        "id": row["id"],
        "name": row["name"],
        "status": row["status"],
        "attempts": row["attempts"],
        "progress": float(row["progress"]),
        "result": None if row["result"] is None else json.loads(row["result"]),
        "error": row["error"],
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "finished_at": row["finished_at"],
    }


def find(connection, taskId):
    row = connection.row(f"SELECT {COLUMNS} FROM tasks WHERE id = :id", id=taskId)
    return None if row is None else describe(row)


def page(connection, status, name, limit, after):
    """
    @return: (tasks, id of the last one where there are more), oldest first;
        L{None} when there is no task C{after}.
    """
    seq = 0
    if after is not None:
        row = connection.row("SELECT seq FROM tasks WHERE id = :id", id=after)
        if row is None:
            return None
        seq = row["seq"]
    wanted = ["seq > :seq"]
    if status is not None:
        wanted.append("status = :status")
    if name is not None:
        wanted.append("name = :name")
    rows = connection.rows(
        f"SELECT {COLUMNS} FROM tasks WHERE {' AND '.join(wanted)} ORDER BY seq LIMIT :limit",
        seq=seq,
        status=status,
        name=name,
        limit=limit + 1,
    )
    found = [describe(row) for row in rows[:limit]]
    return found, found[-1]["id"] if len(rows) > limit else None


def cancel(connection, taskId):
    """
    Cancel at once what waits, and ask what runs.

    @return: (the status before, the status after), or L{None}.
    """
    row = connection.row("SELECT status FROM tasks WHERE id = :id", id=taskId)
    if row is None:
        return None
    cancelled = connection.execute(
        "UPDATE tasks SET status = 'CANCELLED', cancel_requested = 1, finished_at = :now"
        " WHERE id = :id AND status IN ('PENDING', 'RETRY')",
        id=taskId,
        now=timestamp(),
    )
    if cancelled:
        return row["status"], "CANCELLED"
    asked = connection.execute(
        "UPDATE tasks SET cancel_requested = 1 WHERE id = :id AND status = 'RUNNING'", id=taskId
    )
    now = find(connection, taskId)["status"]
    # What was read above may be out of date: on PostgreSQL somebody else may have ended it meanwhile.
    return "RUNNING" if asked else now, now


def claim(connection, owner, limit, skipLocked=""):
    """
    Take up to C{limit} tasks that are due.

    @return: (the rows, the C{run_at} of the next one that isn't due yet).
    """
    now = timestamp()
    limits = {row["name"]: row for row in connection.rows("SELECT * FROM limits")}
    closed = {name for name, row in limits.items() if row["paused"]}
    claimed = []
    while len(claimed) < limit:
        known = len(closed)
        for row in due(connection, now, limit - len(claimed), closed, skipLocked):
            name = row["name"]
            if name in limits and (name in closed or not admitted(connection, limits[name])):
                closed.add(name)
                continue
            claimed.append(take(connection, owner, row, now))
        if len(closed) == known:
            break
        # Names at their limit filled the page: look past them.
    coming = connection.row(
        "SELECT min(run_at) AS run_at FROM tasks"
        " WHERE status IN ('PENDING', 'RETRY') AND engine = 'table' AND run_at > :now",
        now=now,
    )
    return claimed, coming["run_at"]


def claimOne(connection, owner, taskId, skipLocked=""):
    """
    Take one task, whatever its engine, if it may run now.

    @return: the row, or L{None}.
    """
    now = timestamp()
    row = connection.row(CLAIMABLE + " AND t.id = :id" + skipLocked, now=now, id=taskId)
    if row is None:
        return None
    limit = connection.row("SELECT * FROM limits WHERE name = :name", name=row["name"])
    if limit is not None and (limit["paused"] or not admitted(connection, limit)):
        return None
    return take(connection, owner, row, now)


def take(connection, owner, row, now):
    connection.execute(
        "UPDATE tasks SET status = 'RUNNING', owner = :owner, attempts = attempts + 1,"
        " heartbeat = 0, started_at = :now WHERE id = :id",
        owner=owner,
        now=now,
        id=row["id"],
    )
    return dict(row, attempts=row["attempts"] + 1)


CLAIMABLE = (
    "SELECT t.id, t.name, t.params, t.attempts, t.failures, t.max_attempts, t.timeout,"
    " t.created_at, t.run_at, t.seq FROM tasks t"
    " WHERE t.status IN ('PENDING', 'RETRY') AND t.run_at <= :now AND t.cancel_requested = 0"
    " AND (t.after_id IS NULL OR NOT EXISTS (SELECT 1 FROM tasks b WHERE b.id = t.after_id"
    " AND b.status IN ('PENDING', 'RUNNING', 'RETRY')))"
)


def due(connection, now, limit, closed, skipLocked):
    names = {f"name{letters(n)}": name for n, name in enumerate(closed)}
    return connection.rows(
        CLAIMABLE + " AND t.engine = 'table'"
        + (f" AND t.name NOT IN (:{', :'.join(names)})" if names else "")
        + " ORDER BY t.priority DESC, t.run_at, t.seq LIMIT :limit" + skipLocked,
        now=now,
        limit=limit,
        **names,
    )


def isDue(connection):
    """
    Whether a claim may find something.
    """
    return bool(due(connection, timestamp(), 1, (), ""))


def next(connection, taskId):
    """
    What may run once an attempt at C{taskId} has ended: itself again, or
    the tasks that waited for it.

    @return: (id, delay in seconds) of each.
    """
    row = connection.row("SELECT status, run_at FROM tasks WHERE id = :id", id=taskId)
    if row["status"] in TERMINAL:
        waiting = connection.rows("SELECT id FROM tasks WHERE after_id = :id", id=taskId)
        return [(after["id"], 0.0) for after in waiting]
    return [(taskId, max(0.0, until(row["run_at"])))] if row["status"] == "RETRY" else []


def admitted(connection, limit):
    """
    Whether one more task of this name may start now.
    """
    if limit["concurrency"] is not None:
        running = connection.row(
            "SELECT count(*) AS n FROM tasks WHERE name = :name AND status = 'RUNNING'",
            name=limit["name"],
        )
        if running["n"] >= limit["concurrency"]:
            return False
    if limit["rate"] is not None:
        window = max(1.0, 1.0 / limit["rate"]) if limit["rate"] > 0 else None
        if window is None:
            return False
        started = connection.row(
            "SELECT count(*) AS n FROM tasks WHERE name = :name AND started_at > :since",
            name=limit["name"],
            since=later(-window),
        )
        return started["n"] < max(1, int(limit["rate"] * window))
    return True


OURS = " WHERE id = :id AND owner = :owner AND attempts = :attempts AND status = 'RUNNING'"


def beat(connection, owner, rows):
    """
    Show that the tasks in C{rows}, (id, attempts), are still being worked on.
    """
    ids = {f"id{letters(n)}": taskId for n, (taskId, _) in enumerate(rows)}
    if ids:
        connection.execute(
            "UPDATE tasks SET heartbeat = heartbeat + 1"
            f" WHERE owner = :owner AND status = 'RUNNING' AND id IN (:{', :'.join(ids)})",
            owner=owner,
            **ids,
        )


def letters(number):
    return "".join(chr(97 + int(digit)) for digit in str(number))


def progress(connection, owner, row, amount):
    """
    @return: whether somebody asked to cancel.
    @raise Lost: when the row isn't ours any more.
    """
    changed = connection.execute(
        "UPDATE tasks SET progress = :progress" + OURS, progress=amount, **mine(owner, row)
    )
    if not changed:
        raise Lost(row["id"])
    found = connection.row("SELECT cancel_requested FROM tasks WHERE id = :id", id=row["id"])
    return bool(found["cancel_requested"])


def succeed(connection, owner, row, result):
    finish(
        connection,
        owner,
        row,
        "status = 'SUCCESS', progress = 1, error = NULL, result = :result, finished_at = :now",
        result=None if result is None else json.dumps(result),
    )


def fail(connection, owner, row, error, spread=random.random):
    """
    Note an error: RETRY after a while, or FAILURE after the last attempt.

    @param error: the exception.
    @param spread: gives 0 to 1; full jitter, so that what failed together
        doesn't come back together.
    """
    text = f"{type(error).__name__}: {error}"[:2000]
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\\0")
    failures = row["failures"] + 1
    wanted = connection.row("SELECT cancel_requested FROM tasks WHERE id = :id", id=row["id"])
    if wanted is not None and wanted["cancel_requested"]:
        change = "status = 'CANCELLED', failures = :failures, error = :error, finished_at = :now"
        delay = 0.0
    elif failures >= row["max_attempts"]:
        change = "status = 'FAILURE', failures = :failures, error = :error, finished_at = :now"
        delay = 0.0
    else:
        change = (
            "status = 'RETRY', failures = :failures, error = :error, owner = NULL,"
            " run_at = :run_at"
        )
        delay = spread() * min(30.0, 0.2 * 2 ** min(row["attempts"], 20))
    finish(connection, owner, row, change, failures=failures, error=text, run_at=later(delay))


def cancelled(connection, owner, row):
    finish(connection, owner, row, "status = 'CANCELLED', finished_at = :now")


def release(connection, owner, row):
    """
    Give an unfinished task back: the process stops.
    """
    finish(connection, owner, row, "status = 'PENDING', owner = NULL, run_at = :now")


def finish(connection, owner, row, change, **values):
    values.update(mine(owner, row), now=timestamp())
    if not connection.execute("UPDATE tasks SET " + change + OURS, **values):
        raise Lost(row["id"])


def mine(owner, row):
    return {"id": row["id"], "owner": owner, "attempts": row["attempts"]}
