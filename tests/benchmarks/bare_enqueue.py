"""
What asking for work costs at least: a bare FastAPI route that inserts one row, as durably as the application does, and
does nothing else. BARE_DATABASE is the URL of a database of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable

from fastapi import FastAPI

TABLE = "CREATE TABLE bare (id TEXT PRIMARY KEY, message TEXT NOT NULL)"


def inserter(url: str) -> Callable[[str, str], object]:
    """
    What inserts one row and commits it. Blocks; one caller at a time.
    """
    if url.startswith("sqlite:///"):
        lite = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
        lite.execute("PRAGMA journal_mode = WAL")
        lite.execute("PRAGMA synchronous = FULL")
        lite.execute(TABLE)
        return lambda key, message: lite.execute("INSERT INTO bare VALUES (?, ?)", (key, message))
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    connection.execute(TABLE)
    return lambda key, message: connection.execute("INSERT INTO bare VALUES (%s, %s)", (key, message))


def create_app() -> FastAPI:
    """
    One route, which runs in Starlette's thread pool.
    """
    app, insert, guard = FastAPI(), inserter(os.environ["BARE_DATABASE"]), threading.Lock()

    @app.post("/log", status_code=202)
    def log(message: str) -> dict[str, str]:
        key = str(uuid.uuid4())
        with guard:
            insert(key, message)
        return {"message": "log queued", "task_id": key}

    return app
