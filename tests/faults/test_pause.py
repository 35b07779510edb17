"""
A process that stands still and then goes on: its work was given to another one, and what it brings late is dropped.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.contract.wire import ask

Serve = Callable[..., Server]
Connect = Callable[[], Database]

pytestmark = pytest.mark.slow


def pause(server: Server, stored: Database) -> None:
    """
    SIGSTOP, in no transaction: SQLite's lock would be kept, and everybody held up for as long.
    """
    with closing(sqlite3.connect(stored.url.removeprefix("sqlite:///"), timeout=0.2, isolation_level=None)) as probe:
        while True:
            os.killpg(server.process.pid, signal.SIGSTOP)
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.killpg(server.process.pid, signal.SIGCONT)
            else:
                probe.execute("ROLLBACK")
                return


@pytest.mark.parametrize(("paused", "other"), [("legacy", "modern"), ("modern", "legacy")])
def test_a_paused_owner_loses_its_task_and_cannot_end_it(
    serve: Serve, database: Connect, paused: str, other: str
) -> None:
    """
    SIGSTOP longer than the lease: the other side runs the task again, once; after SIGCONT nothing changes any more.
    """
    server = serve(paused, JOBS_LEASE="1.5")
    stored = database()
    answer = ask(server.address, "POST", "/compute", headers=["Content-Type: application/json"], body=b'{"n":10000000}')
    task = json.loads(answer.body)["task_id"]
    while stored.status(task) == "PENDING":
        time.sleep(0.001)
    pause(server, stored)
    assert "RUNNING" == stored.status(task)

    rescuer = serve(other, JOBS_LEASE="1.5")
    begun = time.monotonic()
    ended = stored.settle(task, timeout=60)
    took = time.monotonic() - begun
    before = stored.query("SELECT * FROM tasks WHERE id = ?", task)
    os.killpg(server.process.pid, signal.SIGCONT)
    late = ask(server.address, "POST", "/log?message=late")
    time.sleep(3.0)  # the paused computation goes on, ends, and is refused: that leaves no trace to wait for

    assert "SUCCESS" == ended
    assert took < 45
    [row] = stored.query("SELECT * FROM tasks WHERE id = ?", task)
    assert before == [row]
    assert (2, 0, 1) == (row["attempts"], row["failures"], row["rescues"])
    assert {"count": 664579} == json.loads(row["result"])
    assert ("PENDING", "RUNNING", "PENDING", "RUNNING", "SUCCESS") == stored.history(task)
    [owner] = stored.query("SELECT side FROM processes WHERE boot_id = ?", row["owner"])
    assert other == owner["side"]
    assert "SUCCESS" == stored.settle(json.loads(late.body)["task_id"])
    for each in (server, rescuer):
        assert each.process.poll() is None, each.last_words()
