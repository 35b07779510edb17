"""
Threads at the start of an application: loops of ten and fifteen seconds in a pool, a task of the loop beside them, and
an end that cuts none of them and waits for none of them for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from legacy_twisted import chores
from modern_fastapi.loops import cache_refresh, cleanup
from tests.sources.conftest import Stack

pytestmark = pytest.mark.slow



def test_loops_of_ten_and_fifteen_seconds_begin_with_the_server(stack: Stack) -> None:
    """
    Both tick at once, and then at their own pace; the task of the loop that looks after others runs beside them.
    """
    assert (10.0, 15.0) == (cache_refresh.INTERVAL, cleanup.INTERVAL)
    assert (10.0, 15.0) == (chores.CacheRefresh.interval, chores.Cleanup.interval)

    deadline = time.monotonic() + 20
    wanted = {"cache_refresh", "cleanup"}
    while wanted - {row["loop"] for row in stack.stored.query("SELECT loop FROM ticks")}:
        assert time.monotonic() < deadline, stack.server.last_words()
        time.sleep(0.05)

    [rescue] = stack.stored.query("SELECT owner, state FROM loops WHERE name = 'rescue'")
    assert "running" == rescue["state"]


@pytest.mark.parametrize("name", ["legacy", "modern"])
def test_the_end_waits_for_the_threads_and_no_longer(serve: Callable[..., Stack], name: str) -> None:
    """
    The faults: a daemon thread is cut in the middle, and `shutdown(wait=False)` hangs at the exit. Here each loop has
    said that it stopped, and the process has ended.
    """
    stack = serve(name)
    stack.ended(stack.post("/log?message=a")["task_id"])

    stack.server.stop(timeout=15)

    assert {"stopped"} == {row["state"] for row in stack.stored.query("SELECT state FROM loops")}
    assert [] == [path.name for path in stack.data.rglob("*.part")]


def test_an_error_in_a_thread_is_counted_and_the_loop_goes_on(serve: Callable[..., Stack]) -> None:
    """
    A folder that is gone breaks a tick of the cleanup; the loop says so, and runs.
    """
    stack = serve("modern")
    for path in sorted((stack.data / "uploads").glob("*")):
        path.unlink()
    (stack.data / "uploads").rmdir()

    deadline = time.monotonic() + 40
    while not (row := stack.stored.query("SELECT errors, state FROM loops WHERE name = 'cleanup'")[0])["errors"]:
        assert time.monotonic() < deadline, stack.server.last_words()
        time.sleep(0.1)

    assert "running" == row["state"]
