"""
The table of tasks: claimed once, finished only by the claimer, retried with jitter, ordered and limited.
"""

from __future__ import annotations

import json

import pytest

from legacy_twisted import tasks


def insert(jobs, name="log.write", params=None, **more) -> str:
    return jobs.database.writeNow(lambda c: tasks.insert(c, name, params or {}, **more))


def claim(jobs, limit=10, owner="me"):
    return jobs.database.writeNow(lambda c: tasks.claim(c, owner, limit))[0]


def write(jobs, interaction, row, *args, owner="me", **kwargs):
    return jobs.database.writeNow(interaction, owner, row, *args, **kwargs)


def state(jobs, taskId):
    return jobs.sql("SELECT status, attempts, failures, owner, error FROM tasks WHERE id = :id", id=taskId)[0]


def test_claimed_once(jobs):
    """
    Two claimers never get the same row.
    """
    taskId = insert(jobs)

    first, second = claim(jobs, owner="a"), claim(jobs, owner="b")

    assert [taskId] == [row["id"] for row in first]
    assert [] == second


def test_only_the_claimer_finishes(jobs):
    """
    A row that was rescued and claimed again can't be finished by its former owner, nor by a former attempt.
    """
    taskId = insert(jobs)
    old = claim(jobs)[0]
    jobs.sql("UPDATE tasks SET status = 'PENDING', owner = NULL")
    new = claim(jobs)[0]

    for row, owner in ((old, "me"), (new, "another")):
        with pytest.raises(tasks.Lost):
            write(jobs, tasks.succeed, row, None, owner=owner)
    write(jobs, tasks.succeed, new, {"n": 1})

    assert ("SUCCESS", 2, 0, "me", None) == state(jobs, taskId)


def test_one_after_the_other(jobs):
    """
    A task that names another waits for its end, whatever that is.
    """
    first = insert(jobs)
    second = insert(jobs, after=first)

    row = claim(jobs)[0]
    waiting = claim(jobs)
    write(jobs, tasks.fail, dict(row, max_attempts=1), ValueError("no"))

    assert [] == waiting
    assert [second] == [row["id"] for row in claim(jobs)]


def test_retry_waits_with_full_jitter(jobs):
    """
    The delay is spread over min(30, 0.2 * 2 ** attempts) seconds; after the last attempt the error stays.
    """
    taskId = insert(jobs)
    row = claim(jobs)[0]
    write(jobs, tasks.fail, row, ValueError("no"), spread=lambda: 1.0)
    delay = tasks.until(jobs.sql("SELECT run_at FROM tasks")[0][0])

    last = dict(row, failures=2)
    jobs.sql("UPDATE tasks SET status = 'RUNNING', owner = 'me'")
    write(jobs, tasks.fail, last, ValueError("x" * 3000))

    assert 0.3 < delay <= 0.4
    status, _, failures, _, error = state(jobs, taskId)
    assert ("FAILURE", 3, "ValueError: " + "x" * 1988) == (status, failures, error)


def test_errors_are_text(jobs):
    """
    A lone surrogate or a NUL in an error doesn't keep the row from ending.
    """
    taskId = insert(jobs)
    row = dict(claim(jobs)[0], max_attempts=1)

    write(jobs, tasks.fail, row, ValueError("\ud800\0"))

    assert "ValueError: ?\\0" == state(jobs, taskId)[4]


def test_error_is_gone_after_success(jobs):
    """
    What failed once and then succeeds shows no error.
    """
    taskId = insert(jobs)
    write(jobs, tasks.fail, claim(jobs)[0], ValueError("no"), spread=lambda: 0.0)

    write(jobs, tasks.succeed, claim(jobs)[0], None)

    assert ("SUCCESS", 2, 1, "me", None) == state(jobs, taskId)


def test_priority_then_time(jobs):
    """
    The most urgent first, then who has waited longest.
    """
    late, soon, urgent = insert(jobs), insert(jobs), insert(jobs, priority=5)
    jobs.sql("UPDATE tasks SET run_at = '2000-01-01T00:00:00.000000Z' WHERE id = :id", id=soon)

    assert [urgent, soon, late] == [row["id"] for row in claim(jobs)]


def test_not_before_its_time(jobs):
    """
    A delayed task isn't claimed, and the claimer learns when it will be due.
    """
    insert(jobs, delay=60.0)

    rows, coming = jobs.database.writeNow(lambda c: tasks.claim(c, "me", 5))

    assert [] == rows
    assert 59 < tasks.until(coming) <= 60


def test_limits_by_name(jobs):
    """
    A name's concurrency and rate hold, a paused one isn't claimed, and none of them keeps others waiting.
    """
    for name in ("one", "two", "paused", "rated"):
        for _ in range(3):
            insert(jobs, name=name)
    insert(jobs, name="free")
    jobs.sql("INSERT INTO limits (name, concurrency) VALUES ('one', 1), ('two', 2)")
    jobs.sql("INSERT INTO limits (name, paused) VALUES ('paused', 1)")
    jobs.sql("INSERT INTO limits (name, rate) VALUES ('rated', 1)")

    first = sorted(row["name"] for row in claim(jobs, limit=5))
    second = sorted(row["name"] for row in claim(jobs, limit=5))

    assert ["free", "one", "rated", "two", "two"] == first
    assert [] == second


def test_unique_keys(jobs):
    """
    A second task with the same key is refused by the table.
    """
    insert(jobs, key="k")

    with pytest.raises(Exception, match="unique_key"):
        insert(jobs, key="k")


def test_cancel(jobs):
    """
    What waits is cancelled at once; what runs is asked, and ends cancelled even where it fails; what has ended stays.
    """
    waiting = insert(jobs)
    cancelled = jobs.database.writeNow(tasks.cancel, waiting)
    running = insert(jobs)
    row = claim(jobs)[0]
    asked = jobs.database.writeNow(tasks.cancel, running)
    wanted = write(jobs, tasks.progress, row, 0.5)
    write(jobs, tasks.fail, row, ValueError("no"))

    assert (("PENDING", "CANCELLED"), ("RUNNING", "RUNNING"), True) == (cancelled, asked, wanted)
    assert "CANCELLED" == state(jobs, running)[0]
    assert ("CANCELLED", "CANCELLED") == jobs.database.writeNow(tasks.cancel, running)
    assert jobs.database.writeNow(tasks.cancel, "nobody") is None


def test_release(jobs):
    """
    A task that is given back can be claimed by anybody, and no error is counted.
    """
    taskId = insert(jobs)

    write(jobs, tasks.release, claim(jobs)[0])

    assert ("PENDING", 1, 0, None, None) == state(jobs, taskId)
    assert [taskId] == [row["id"] for row in claim(jobs, owner="other")]


def test_pages(jobs):
    """
    Oldest first; `next` names the last one of a page only where there are more.
    """
    ids = [insert(jobs, name="a" if n % 2 else "b") for n in range(5)]

    def page(**more):
        asked = {"status": None, "name": None, "limit": 2, "after": None, **more}
        return jobs.database.readNow(lambda c: tasks.page(c, **asked))

    found, last = page()
    assert (ids[:2], ids[1]) == ([task["id"] for task in found], last)
    found, last = page(after=ids[2])
    assert (ids[3:], None) == ([task["id"] for task in found], last)
    assert ids[1::2] == [task["id"] for task in page(name="a")[0]]
    assert page(after="nobody") is None


def test_results_are_ascii_json(jobs):
    """
    JSON columns hold ASCII, so that any database takes them.
    """
    insert(jobs, params={"t": "ä\ud800\0"})

    write(jobs, tasks.succeed, claim(jobs)[0], {"t": "ä"})

    params, result = jobs.sql("SELECT params, result FROM tasks")[0]
    assert params.isascii()
    assert result.isascii()
    assert {"t": "ä\ud800\0"} == json.loads(params)
