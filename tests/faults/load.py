"""
A steady load of tasks on one or several servers, and the proof that none of them was lost or run again afterwards.

The load remembers what was accepted: an answer of 202 is a promise, whatever happens to the server that gave it.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import attrs

from tests.contract.stores import Database, lines_between
from tests.contract.wire import WireError, ask

JSON = ["Content-Type: application/json"]

REQUESTS: tuple[tuple[str, str, bytes | None], ...] = (
    ("POST", "/log?message=load", None),
    ("POST", "/send-notification/a@example.org?message=load", None),
    ("POST", "/process", b'{"a":[1,2,3]}'),
    ("POST", "/unstable", b'{"failures":1}'),
    ("POST", "/process/item?q=load", None),
    ("POST", "/compute", b'{"n":20000}'),
)


@attrs.define
class Load:
    """
    Threads that post tasks to whatever `addresses` names at that moment, each a request every `pause` seconds.
    """

    addresses: Callable[[], list[tuple[str, int]]]
    dice: random.Random
    pause: float = 0.03
    accepted: list[str] = attrs.Factory(list)
    refused: Counter[str] = attrs.Factory(Counter)
    broken: list[str] = attrs.Factory(list)
    _stop: threading.Event = attrs.Factory(threading.Event)
    _threads: list[threading.Thread] = attrs.Factory(list)

    def __enter__(self) -> Load:
        for _ in range(3):
            thread = threading.Thread(target=self._run, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, count: int, timeout: float = 60.0) -> None:
        """
        Until `count` more tasks than now have been accepted.
        """
        goal = len(self.accepted) + count
        deadline = time.monotonic() + timeout
        while len(self.accepted) < goal:
            assert time.monotonic() < deadline, f"{len(self.accepted)} accepted, {self.refused}"
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stop.is_set():
            addresses = self.addresses()
            if addresses:
                self._one(self.dice.choice(addresses), *self.dice.choice(REQUESTS))
            self._stop.wait(self.pause)

    def _one(self, address: tuple[str, int], method: str, target: str, body: bytes | None) -> None:
        try:
            answer = ask(address, method, target, headers=JSON if body else (), body=body)
        except (OSError, WireError) as error:
            self.refused[type(error).__name__] += 1
            if isinstance(error, WireError) and "b''" not in str(error):
                self.broken.append(str(error))  # an answer was begun and not ended
            return
        if answer.status == 202:
            entry = json.loads(answer.body)
            self.accepted += entry.get("task_ids") or [entry["task_id"]]
        else:
            self.refused[str(answer.status)] += 1


def settle_all(database: Database, timeout: float = 60.0) -> None:
    """
    Until no task waits or runs.
    """
    deadline = time.monotonic() + timeout
    sql = "SELECT id, name, status, owner, attempts FROM tasks WHERE status IN ('PENDING', 'RUNNING', 'RETRY')"
    while left := database.query(sql):
        assert time.monotonic() < deadline, f"{len(left)} tasks have not ended, among them {left[:3]}"
        time.sleep(0.1)


def prove(database: Database, data: Path, accepted: list[str]) -> dict[str, float]:
    """
    Every accepted task ended SUCCESS; none ran again after it had; no effect came more often than the task was
    started. Returns the number of tasks, how many starts were repeated because a process died, and within how many
    seconds of such a start 99 of 100 were put back: that is more than the rescue took.
    """
    rows = {row["id"]: row for row in database.query("SELECT * FROM tasks")}
    events: dict[str, list[str]] = {}
    times: dict[str, list[float]] = {}
    for row in database.query("SELECT task_id, status, at FROM events ORDER BY seq"):
        events.setdefault(row["task_id"], []).append(row["status"])
        times.setdefault(row["task_id"], []).append(datetime.fromisoformat(row["at"]).timestamp())
    lines: Counter[str] = Counter()
    for name in ("app.log", "notifications.log"):
        path = data / name
        for line in lines_between(path, 0, path.stat().st_size if path.exists() else 0):
            lines[json.loads(line)["task_id"]] += 1

    lost = [task for task in accepted if task not in rows]
    assert [] == lost
    unfinished = [(row["id"], row["status"], row["error"]) for row in rows.values() if row["status"] != "SUCCESS"]
    assert [] == unfinished
    for task, row in rows.items():
        history = events[task]
        assert "SUCCESS" == history[-1], (task, history)
        assert 1 == history.count("SUCCESS"), (task, history)
        assert row["attempts"] == history.count("RUNNING"), (task, history, row["attempts"])
        if row["name"] in ("log.write", "notification.write"):
            assert 1 <= lines[task] <= row["attempts"], (task, lines[task], row["attempts"])
    repeated = sum(row["attempts"] - 1 - row["failures"] for row in rows.values())
    with contextlib.suppress(KeyError):
        assert all(row["rescues"] <= row["attempts"] - 1 for row in rows.values())
    rescued = sorted(
        times[task][n + 1] - times[task][n]
        for task, history in events.items()
        for n, change in enumerate(pairwise(history))
        if change == ("RUNNING", "PENDING")
    )
    return {
        "tasks": len(rows),
        "repeated": repeated,
        "put back within": rescued[int(0.99 * len(rescued))] if rescued else 0.0,
    }
