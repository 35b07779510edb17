"""
What a server left behind: the rows of its database and the files below its data folder, read without its help.

It refuses to know either application: SQL and files are read as they are.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

KEYS = {
    "users": "user_id",
    "directory": "user_id",
    "subscriptions": "email_key",
    "items": "item_id",
    "uploads": "upload_id",
    "exports": "export_id",
    "tasks": "id",
}
LOGS = ("notifications.log", "app.log", "admin.log", "requests.log")
FOLDERS = ("uploads", "processed", "exports", "outbox")
TERMINAL = ("SUCCESS", "FAILURE", "CANCELLED")
_MOMENT = "2026-01-01T00:00:00.000000Z"

Row = dict[str, Any]


class Database:
    """
    A connection of the test's own to the database of a server, SQLite or PostgreSQL by its URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        if url.startswith("sqlite:///"):
            # Writers of the server hold the lock for milliseconds; autocommit keeps no read open that would stop a
            # checkpoint.
            self._connection: Any = sqlite3.connect(
                url.removeprefix("sqlite:///"), timeout=20, isolation_level=None, check_same_thread=False
            )
            self._mark = "?"
        else:
            import psycopg

            self._connection = psycopg.connect(url, autocommit=True)
            self._mark = "%s"

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str, *values: object) -> list[Row]:
        with self._lock, closing(self._connection.cursor()) as cursor:
            cursor.execute(sql.replace("?", self._mark), values)
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def rows(self) -> dict[str, dict[str, Row]]:
        """
        Every row of the tables that requests and tasks write, by its key.
        """
        return {table: {row[key]: row for row in self.query(f"SELECT * FROM {table}")} for table, key in KEYS.items()}

    def history(self, task: str) -> tuple[str, ...]:
        found = self.query("SELECT status FROM events WHERE task_id = ? ORDER BY seq", task)
        return tuple(row["status"] for row in found)

    def status(self, task: str) -> str | None:
        found = self.query("SELECT status FROM tasks WHERE id = ?", task)
        return found[0]["status"] if found else None

    def settle(self, task: str, timeout: float = 60.0) -> str | None:
        """
        The status in which `task` ended, or the one that it still had after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        pause = 0.002
        while (status := self.status(task)) not in TERMINAL and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return status

    def idle(self, timeout: float = 30.0) -> None:
        """
        Wait until no task is due or running.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.query(
            "SELECT id FROM tasks WHERE status IN ('PENDING', 'RUNNING', 'RETRY') AND run_at < '2999' LIMIT 1"
        ):
            time.sleep(0.05)

    def calm(self, timeout: float = 30.0) -> None:
        """
        The same, and until its requests are logged: what a failed case left must not be blamed on the next one.
        """
        self.idle(timeout)
        time.sleep(0.2)  # the request log is written after the answer, and nothing says when

    def insert(self, raw: Mapping[str, Any]) -> None:
        values = {key: value for key, value in raw.items() if key != "table"}
        if raw["table"] == "tasks":
            values = {"run_at": "2999-01-01T00:00:00.000000Z", "created_at": _MOMENT, **values}
        names = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        self.query(f"INSERT INTO {raw['table']} ({names}) VALUES ({marks})", *values.values())

    def delete(self, raw: Mapping[str, Any]) -> None:
        key = {**KEYS, "reports": "day"}[raw["table"]]
        self.query(f"DELETE FROM {raw['table']} WHERE {key} = ?", raw[key])


@attrs.frozen
class Files:
    """
    The data folder at one moment: the sizes of its logs, and every other file with what tells a change.
    """

    logs: Mapping[str, int]
    others: Mapping[str, tuple[int, int]]
    strangers: frozenset[str]


def look(folder: Path) -> Files:
    logs = {name: (folder / name).stat().st_size if (folder / name).exists() else 0 for name in LOGS}
    others: dict[str, tuple[int, int]] = {}
    strangers: set[str] = set()
    for entry in os.scandir(folder):
        if entry.name in FOLDERS:
            for inner in os.scandir(entry.path):
                try:
                    facts = inner.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                others[f"{entry.name}/{inner.name}"] = (facts.st_size, facts.st_mtime_ns)
        elif entry.name not in LOGS and not entry.name.startswith("jobs.db"):
            strangers.add(entry.name)
    return Files(logs, others, frozenset(strangers))


def lines_between(path: Path, start: int, stop: int) -> list[str]:
    """
    The whole lines between two sizes of a log.
    """
    if start == stop:
        return []
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(stop - start)
    # Not splitlines(): U+2028 and its like are no ends of a line. What follows the last line end is a broken line.
    *lines, rest = data.decode("utf-8", "surrogateescape").split("\n")
    return [*lines, *([rest] if rest else [])]
