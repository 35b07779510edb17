"""
The road from a Twisted Resource with a worker in a thread to a task of the FastAPI lifespan, and what it lacked: a
worker that ends, and two stacks in one process.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.servers import ROOT, Server, environment, script
from tests.contract.wire import ask
from tests.sources.conftest import Stack

pytestmark = pytest.mark.slow

LOOPS = ["cache_refresh", "cleanup", "consumer", "daily_report", "rescue"]


def test_a_resource_says_hello(stack: Stack) -> None:
    """
    `render_GET` gives `Hello, world!`, and so does its successor.
    """
    answer = stack.ask("GET", "/")

    assert (200, b"Hello, world!") == (answer.status, answer.body)


def test_a_worker_runs_in_a_thread(legacy: Stack) -> None:
    """
    The BackgroundWorker under deferToThread does what requests ask for, and its loop says that it runs.
    """
    row = legacy.ended(legacy.post("/log?message=hello")["task_id"])

    assert "SUCCESS" == row["status"]
    [loop] = legacy.stored.query("SELECT owner, state FROM loops WHERE name = 'consumer'")
    assert ("legacy:" + row["owner"], "running") == (loop["owner"], loop["state"])


def test_the_articles_own_worker_never_lets_its_process_end(tmp_path: Path) -> None:
    """
    The fault: under Twisted's reactor the article's `while True` outlives SIGTERM.
    """
    tac = ROOT / "tests" / "sources" / "article.py"
    command = [*script("twistd"), "--pidfile=", "-ny", str(tac)]
    server = Server.start(command, ROOT, environment(), tmp_path / "log")
    try:
        while "working" not in server.said():
            assert server.process.poll() is None, server.said()
        server.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(3)
    finally:
        server.kill()


def test_under_bgserver_the_articles_own_worker_does_not_hold_the_process(tmp_path: Path) -> None:
    """
    Mended, without a change in its code: SIGTERM ends the process within the grace, with status 0.
    """
    (tmp_path / "bgserver.toml").write_text(
        'listen = ["tcp:0:interface=127.0.0.1"]\n'
        f'state = "sqlite:///{tmp_path}/bgserver.db"\ngrace = 1.0\n'
        '[legacy]\napp = "tests.sources.article:make_service"\n'
    )
    command = [*script("twistd"), "--pidfile=", "-n", "bgserver", "--config", str(tmp_path / "bgserver.toml")]
    server = Server.start(command, ROOT, environment(), tmp_path / "log").listening()
    try:
        assert b"Hello, world!" == ask(server.address, "GET", "/").body
        while "working" not in server.said():
            assert server.process.poll() is None, server.said()
        assert 0 == server.stop(timeout=10), server.said()
    finally:
        server.kill()


@pytest.mark.parametrize("name", ["legacy", "modern"])
def test_the_worker_is_stopped_and_awaited(serve: Callable[..., Stack], name: str) -> None:
    """
    SIGTERM in the middle of a task: the loop ends, says so in its row, and gives back what it can't finish.
    """
    stack = serve(name, JOBS_GRACE="1")
    task = stack.post("/compute", {"n": 10_000_000})["task_id"]
    while stack.stored.status(task) == "PENDING":
        assert stack.server.process.poll() is None

    stack.server.stop()

    states = {row["state"] for row in stack.stored.query("SELECT state FROM loops")}
    assert {"stopped"} == states
    assert stack.stored.status(task) in ("PENDING", "SUCCESS")


def test_a_lifespan_task_logs_an_error_and_goes_on(modern: Stack) -> None:
    """
    The loop that consumes outlives what it consumes: after a task that failed for good the next one is run.
    """
    failed = modern.ended(modern.post("/unstable", {"failures": 3})["task_id"])
    after = modern.ended(modern.post("/log?message=after")["task_id"])

    assert ("FAILURE", "SUCCESS") == (failed["status"], after["status"])
    assert failed["owner"] == after["owner"]
    assert "api.unstable" in modern.server.said()


def test_several_loops_run_and_can_be_watched(stack: Stack) -> None:
    """
    /healthz has each loop's owner, state and the age of its last tick.
    """
    answer = stack.ask("GET", "/healthz")
    found = json.loads(answer.body)["loops"]

    assert 200 == answer.status
    named = {row["name"]: row for row in found} if isinstance(found, list) else found
    assert LOOPS == sorted(named)
    assert {"running"} == {row["state"] for row in named.values()}
