"""
Owns the way into the state database: its engine, its transactions, its errors.

SQLite is in WAL mode, a writing transaction begins with C{BEGIN IMMEDIATE} (a read
that turns into a write is "locked" at once, whatever the timeout), and a file that
was taken away is an error, never silently a new one: each transaction opens it anew.
PostgreSQL gives up on locks, statements and dead peers after the same patience.

Refuses: to run on an event loop's thread by itself; every call here may block.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import local
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from bridge.errors import DamagedStateError, NewerStateError, StateError, StateUnavailableError
from bridge.state import schema

_MARKS = sa.select(schema.meta.c.name, schema.meta.c.value).where(schema.meta.c.name.in_(("born", "changes")))

FRESH = 0.1
"""
Seconds after a write in which a glance can't tell whether there was another one.
"""

_NO_COUNTER = "it has lost its counter of changes"

_SCHEMA_LOCK = 0x6267_7372  # any number that is always the same


@attrs.frozen
class Database:
    """
    An opened state database.

    @ivar shown: Its URL without a password, for messages.
    @ivar path: Its file, where it has one.
    """

    engine: sa.Engine
    shown: str
    path: Path | None = None
    _kept: local = attrs.field(factory=local, init=False, repr=False, eq=False)

    def glance(self) -> tuple[object, ...] | None:
        """
        What stays the same while nobody writes: how the files look from outside.  None where that can't be told, or
        not yet.  No connection is kept for it: its log would outlive the file, and spoil one that takes its place.
        """
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        try:
            ahead: os.stat_result | None = os.stat(f"{self.path}-wal")
        except OSError:
            ahead = None
        files = [found] if ahead is None else [found, ahead]
        # A clock of files may stand still for some milliseconds, and two writes look like one.
        if any(abs(time.time() - each.st_mtime) < FRESH for each in files):
            return None
        return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in files)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """
        All transactions that this thread makes inside share a connection: opening one costs more than most that is done
        with it.  For what takes a moment, because a file that is taken away meanwhile isn't missed.
        """
        with self._explained("be read"):
            connection = self.engine.connect()
        self._kept.connection = connection
        try:
            yield
        finally:
            del self._kept.connection
            # It may be broken, and who used it was told.
            with suppress(SQLAlchemyError):
                connection.close()

    @contextmanager
    def _connected(self, writes: bool) -> Iterator[sa.Connection]:
        kept: sa.Connection | None = getattr(self._kept, "connection", None)
        with self.engine.connect() if kept is None else nullcontext(kept) as connection:
            yield connection.execution_options(bgserver_writes=writes)

    @contextmanager
    def reading(self, doing: str) -> Iterator[sa.Connection]:
        """
        One consistent view.  C{doing} completes "can't …" in an error.
        """
        with self._explained(doing), self._connected(writes=False) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, doing: str) -> Iterator[sa.Connection]:
        """
        One transaction that holds the write lock from its beginning.
        """
        with self._explained(doing), self._connected(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _explained(self.shown, doing, _first_line(error.orig)) from error
        except SQLAlchemyError as error:
            raise StateUnavailableError(self.shown, doing, _first_line(error)) from error

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """
        An INSERT that has C{on_conflict_do_…}, which both databases spell alike.
        """
        if self.engine.dialect.name == "postgresql":
            return postgresql.insert(table)
        return sqlite.insert(table)

    def prepare(self) -> None:
        """
        Make the tables where they are missing, and check whose they are.

        @raise NewerStateError: If a later version made them.
        """
        with self.writing("be set up") as connection:
            if connection.dialect.name == "postgresql":
                # Two processes that start at once would both see no tables.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            self._check(connection)
            schema.metadata.create_all(connection)
            # Small enough for any database's numbers, and no other database has it.
            born = secrets.randbits(62)
            for name, value in (("schema", schema.SCHEMA), ("changes", 0), ("born", born)):
                row = self.insert(schema.meta).values(name=name, value=value)
                connection.execute(row.on_conflict_do_nothing())

    def check(self) -> None:
        """
        The same check, without making anything.

        @raise NewerStateError: If a later version made the tables.
        @raise StateUnavailableError: If they aren't there.
        """
        with self.reading("be read") as connection:
            if not self._check(connection):
                raise StateUnavailableError(self.shown, "be read", "it has no tables of bgserver")

    def born(self) -> int | None:
        """
        The number that this database was made with, by which it is known from another one
        at the same place; None where an earlier version made it.
        """
        return self.marks()[0]

    def marks(self) -> tuple[int | None, int]:
        """
        The number of L{born}, and the counter of changes, which only ever grows.
        """
        with self.reading("be read") as connection:
            found: dict[str, int] = {row.name: row.value for row in connection.execute(_MARKS)}
        if "changes" not in found:
            raise DamagedStateError(self.shown, "be read", _NO_COUNTER)
        return found.get("born"), found["changes"]

    def _check(self, connection: sa.Connection) -> bool:
        if not sa.inspect(connection).has_table(schema.meta.name):
            return False
        query = sa.select(schema.meta.c.value).where(schema.meta.c.name == "schema")
        found = connection.scalar(query)
        if found is not None and found > schema.SCHEMA:
            raise NewerStateError(self.shown, found, schema.SCHEMA)
        if found is not None:
            self._check_whole(connection)
        return found is not None

    def _check_whole(self, connection: sa.Connection) -> None:
        """
        A table that was lost must not be made anew, empty: every route would go back to its start.
        """
        missing = {table.name for table in schema.ESSENTIAL} - set(sa.inspect(connection).get_table_names())
        if missing:
            raise DamagedStateError(self.shown, "be read", f"it has lost {', '.join(sorted(missing))}")
        query = sa.select(sa.func.count()).where(schema.meta.c.name == "changes")
        if not connection.scalar(query):
            raise DamagedStateError(self.shown, "be read", _NO_COUNTER)


@attrs.frozen
class Rows:
    """
    What every set of rows stands on.
    """

    database: Database


def shown_url(url: str) -> str:
    """
    A database's URL without its password, for people.
    """
    return make_url(url).render_as_string(hide_password=True)


def connect(text: str, create: bool, patience: float) -> Database:
    """
    Make the engine for a URL; nothing is opened before the first transaction.

    @param create: Whether a SQLite file that isn't there may be made.
    @param patience: Seconds that one transaction waits for others.
    @raise StateError: If the URL is none, or its driver isn't installed.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise StateError(
            f"{text!r} is no database URL. Write one like sqlite:///bgserver.db or postgresql://user@host/name."
        ) from None
    shown = url.render_as_string(hide_password=True)
    path: Path | None = None
    try:
        match url.get_backend_name():
            case "sqlite":
                engine, path = _sqlite(url, shown, create, patience)
            case "postgresql":
                engine = _postgresql(url, patience)
            case other:
                raise StateError(f"State can't live in {other}: use SQLite, or PostgreSQL for many hosts.")
    except ModuleNotFoundError as error:
        raise StateError(
            f"The driver {error.name} for {shown} isn't installed. Run: pip install 'bgserver[postgres]'"
        ) from None
    return Database(engine, shown, path)


def _sqlite(url: URL, shown: str, create: bool, patience: float) -> tuple[sa.Engine, Path]:
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

    def opened() -> sqlite3.Connection:
        # mode=rw: a file that is gone is an error, not a new and empty state.
        still = _still(path)
        uri = f"{path.as_uri()}?{'immutable=1' if still else 'mode=rw'}"
        connection = sqlite3.connect(uri, timeout=patience, uri=True, isolation_level=None)
        if still:
            return connection
        try:
            _write_ahead(connection, patience)
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = sa.create_engine("sqlite://", creator=opened, poolclass=NullPool)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("bgserver_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine, path


def _still(path: Path) -> bool:
    """
    Whether nobody on this mount can be writing that file, and all that was written is in it: SQLite would make a file
    beside it, or refuse to read.  Who writes it through another mount of the same folder isn't seen.
    """
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not Path(f"{path}-wal").exists()
    except OSError:
        return False


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


def _postgresql(url: URL, patience: float) -> sa.Engine:
    if "+" not in url.drivername:
        url = url.set(drivername="postgresql+psycopg")
    limit = int(patience * 1000)
    arguments: dict[str, Any] = {
        "connect_timeout": max(2, round(patience)),
        "tcp_user_timeout": limit,
        "options": f"-c lock_timeout={limit} -c statement_timeout={limit}",
        "application_name": "bgserver",
    }
    return sa.create_engine(url, connect_args=arguments, pool_size=2, pool_pre_ping=True, pool_timeout=patience)


# What databases say, and what helps; what isn't here may be a lock or a folder.
_REMEDIES = (
    ("full", "Make room where it lies; nothing of it is lost meanwhile."),
    ("disk I/O", "Look whether the disk where it lies is full or broken; what is in it stays."),
    ("readonly database", "Run this as the user that the server runs as, who may write the file and its folder."),
    ("connection", "Check that PostgreSQL runs there, and that the URL has the right host, user and database."),
)
_DAMAGED = ("not a database", "malformed", "no such table", "no such column")


def _explained(shown: str, doing: str, cause: str) -> StateUnavailableError:
    if any(word in cause for word in _DAMAGED):
        return DamagedStateError(shown, doing, cause)
    for word, remedy in _REMEDIES:
        if word in cause:
            return StateUnavailableError(shown, doing, cause, remedy)
    return StateUnavailableError(shown, doing, cause)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
