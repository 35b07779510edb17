"""
Owns how a SQLite file is opened, and how it looks from outside.

It is in WAL mode, a writing transaction begins with C{BEGIN IMMEDIATE} (a read that turns
into a write is "locked" at once, whatever the timeout), and a file that was taken away is
an error, never silently a new one: each transaction opens it anew.

Refuses: to write where nobody may.  On a file system that is mounted read-only it reads.
"""

from __future__ import annotations

import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from bridge.errors import StateError, StateUnavailableError

FRESH = 0.1
"""
Seconds after a write in which a glance can't tell whether there was another one.
"""


def sqlite_engine(url: URL, shown: str, create: bool, patience: float) -> tuple[sa.Engine, Path]:
    """
    The engine of a file, and where that is; it is made if it may be.
    """
    if not url.database or url.database == ":memory:":
        raise StateError(f"{shown} would be forgotten at the end: name a file, like sqlite:///bgserver.db.")
    path = Path(url.database).absolute()
    if create and not path.exists():
        try:
            sqlite3.connect(path, timeout=patience).close()
            # connect() alone makes no file before something is written.
            path.touch()
        except (sqlite3.Error, OSError) as error:
            raise StateUnavailableError(shown, "be made", str(error)) from error

    engine = sa.create_engine("sqlite://", creator=partial(_opened, path, patience), poolclass=NullPool)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("bgserver_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine, path


class Still(sqlite3.Connection):
    """
    A connection that takes no lock and looks for no log: only for a file that nobody writes.

    @ivar seen: How the file looked before it was opened.
    """

    seen: tuple[object, ...] | None = None


def _opened(path: Path, patience: float) -> sqlite3.Connection:
    until = time.monotonic() + patience
    while True:
        try:
            # mode=rw: a file that is gone is an error, not a new and empty state.
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw", timeout=patience, uri=True, isolation_level=None
            )
            try:
                _write_ahead(connection, patience)
                connection.execute("PRAGMA synchronous=FULL")
            except BaseException:
                connection.close()
                raise
            return connection
        except sqlite3.OperationalError:
            # On a file system that is mounted read-only SQLite can't make the files that it wants beside this one.
            # Where somebody has it open through another mount they are there, and it needs no more.
            if not _read_only(path) or time.monotonic() > until:
                raise
        seen = glance(path)
        if seen is not None and not Path(f"{path}-wal").exists():
            still = sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, isolation_level=None, factory=Still)
            still.seen = seen
            return still
        # It's being written, or was a moment ago.
        time.sleep(0.02)


def _read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def glance(path: Path) -> tuple[object, ...] | None:
    """
    What stays the same while nobody writes a file; None where that can't be told, or not yet.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    try:
        ahead: os.stat_result | None = os.stat(f"{path}-wal")
    except OSError:
        ahead = None
    files = [found] if ahead is None else [found, ahead]
    # A clock of files may stand still for some milliseconds, and two writes look like one.
    if any(abs(time.time() - each.st_mtime) < FRESH for each in files):
        return None
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in files)


def glimpse(path: Path, seen: tuple[object, ...], sql: str) -> list[Any] | None:
    """
    The rows of a query, as they were while the file looked as it was C{seen}; None where that can't be told.

    Nobody has the file open who writes: it has no log, so that it's read without one, and without locks.
    """
    if os.path.exists(f"{path}-wal"):
        return None
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True, isolation_level=None)
        try:
            found = connection.execute(sql).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    return found if glance(path) == seen else None


def _write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    # Of several processes that turn a new file to WAL at once, all but one are told
    # "locked" without waiting: SQLite's own timeout doesn't cover this.
    until = time.monotonic() + patience
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
