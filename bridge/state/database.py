"""
Owns the way into the state database: its engine, its transactions, its errors.

How SQLite's file is opened is C{sqlite_file}'s.  PostgreSQL gives up on locks,
statements and dead peers after the same patience.

Refuses: to run on an event loop's thread by itself; every call here may block.
"""

from __future__ import annotations

import secrets
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

from bridge.errors import DamagedStateError, NewerStateError, StateError, StateUnavailableError
from bridge.state import schema
from bridge.state.holders import holders
from bridge.state.sqlite_file import Still, glance, glimpse, sqlite_engine

_MARKS = sa.select(schema.meta.c.name, schema.meta.c.value).where(schema.meta.c.name.in_(("born", "changes")))

_GLIMPSE = f"SELECT name, value FROM {schema.meta.name}"

_META = ("schema", "changes", "born")

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
        return None if self.path is None else glance(self.path)

    def glimpse(self, seen: tuple[object, ...]) -> tuple[int | None, int] | None:
        """
        The L{marks}, while the files look as they were C{seen}, at the price of a glance or two; None where that can't
        be told.
        """
        found = None if self.path is None else glimpse(self.path, seen, _GLIMPSE)
        marks = dict(found or ())
        return (marks.get("born"), marks["changes"]) if "changes" in marks else None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """
        All transactions that this thread makes inside share a connection: opening one costs more than most that is done
        with it.  For what takes a moment, because a file that is taken away meanwhile isn't missed.
        """
        with self._explained("be opened"):
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
            try:
                yield connection
            finally:
                self._check_still(connection, doing)

    def _check_still(self, connection: sa.Connection, doing: str) -> None:
        """
        Refuse what was read without locks while somebody wrote: it may be of two moments, or look damaged.
        """
        opened = connection.connection.driver_connection
        if isinstance(opened, Still) and self.glance() != opened.seen:
            cause = "it was written meanwhile, through another mount than this read-only one"
            raise StateUnavailableError(self.shown, doing, cause, "Try again.")

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
            raise _explained(self.shown, doing, _first_line(error.orig), self.path) from error
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
        # Who only wants to move a route isn't told that a locked state can't be set up.
        with self.reading("be read") as connection:
            if self._check(connection) and self._complete(connection):
                return
        with self.writing("be set up") as connection:
            if connection.dialect.name == "postgresql":
                # Two processes that start at once would both see no tables.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            self._check(connection)
            schema.metadata.create_all(connection)
            # Small enough for any database's numbers, and no other database has it.
            born = secrets.randbits(62)
            for name, value in zip(_META, (schema.SCHEMA, 0, born), strict=True):
                row = self.insert(schema.meta).values(name=name, value=value)
                connection.execute(row.on_conflict_do_nothing())

    def _complete(self, connection: sa.Connection) -> bool:
        """
        Whether nothing is missing that a later version of this schema has added.
        """
        if not set(schema.metadata.tables) <= set(sa.inspect(connection).get_table_names()):
            return False
        return set(_META) <= set(connection.scalars(sa.select(schema.meta.c.name)))

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
                engine, path = sqlite_engine(url, shown, create, patience)
            case "postgresql":
                engine = _postgresql(url, patience)
            case other:
                raise StateError(f"State can't live in {other}: use SQLite, or PostgreSQL for many hosts.")
    except ModuleNotFoundError as error:
        raise StateError(
            f"The driver {error.name} for {shown} isn't installed. It comes with bgserver's extra `postgres`: run "
            "pip install '.[postgres]' in a checkout of it."
        ) from None
    return Database(engine, shown, path)


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
    ("locked", "Another program is writing it: wait until that is done, or end it, and try again."),
    ("lock timeout", "Another transaction holds it: pg_stat_activity shows which; try again when that is over."),
    ("connection", "Check that PostgreSQL runs there, and that the URL has the right host, user and database."),
)
_DAMAGED = ("not a database", "malformed", "no such table", "no such column")


def _explained(shown: str, doing: str, cause: str, path: Path | None = None) -> StateUnavailableError:
    who = ", ".join(holders(path)) if path is not None and "locked" in cause else ""
    cause = f"{cause}, by {who}" if who else cause
    if any(word in cause for word in _DAMAGED):
        return DamagedStateError(shown, doing, cause)
    for word, remedy in _REMEDIES:
        if word in cause:
            return StateUnavailableError(shown, doing, cause, remedy)
    return StateUnavailableError(shown, doing, cause)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
