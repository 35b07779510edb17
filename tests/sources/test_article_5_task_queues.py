"""
What BackgroundTasks can't do, one by one: survive a restart, try again, run long without being in the way. Celery, RQ
and Dramatiq as processes are in `tests/sources/test_workers.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.sources.conftest import Stack

pytestmark = pytest.mark.slow



@pytest.mark.parametrize("name", ["legacy", "modern"])
def test_a_task_waits_for_the_next_start(serve: Callable[..., Stack], name: str) -> None:
    """
    The fault: what waits in memory is gone after a restart. Here the server ends before it could begin, and another one
    of either stack does it.
    """
    first = serve(name, JOBS_LOOPS="")
    task = first.post("/log?message=later")["task_id"]
    first.server.stop()
    assert "PENDING" == first.stored.status(task)

    row = serve("modern" if name == "legacy" else "legacy").ended(task)

    assert ("SUCCESS", 1) == (row["status"], row["attempts"])


def test_a_failed_attempt_is_tried_again(stack: Stack) -> None:
    """
    BackgroundTasks have one attempt; a row has three, and its history tells them.
    """
    task = stack.post("/unstable", {"failures": 1})["task_id"]
    stack.ended(task)

    assert ("PENDING", "RUNNING", "RETRY", "RUNNING", "SUCCESS") == stack.stored.history(task)


def test_many_long_tasks_block_no_request(stack: Stack) -> None:
    """
    The fault: forty long tasks after the response fill the threads that requests need. Here they wait in the table.
    """
    tasks = [stack.post("/compute", {"n": 10_000_000})["task_id"] for _ in range(45)]

    answer = stack.ask("GET", f"/task/{tasks[-1]}")

    assert 200 == answer.status
    assert json.loads(answer.body)["status"] in ("PENDING", "RUNNING")
    for task in tasks:
        stack.ask("DELETE", f"/task/{task}")
        stack.ended(task)
