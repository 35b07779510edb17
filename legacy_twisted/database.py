"""
The database: SQLite in WAL mode, or PostgreSQL, behind four verbs.

C{read} and C{write} are for the reactor's thread and give Deferreds (an
adbapi pool does the work); C{readNow} and C{writeNow} block, and are for
threads that may.  All four run C{interaction(connection, *args)} in one
transaction; a L{Connection} has C{execute}, C{row} and C{rows}, with
C{:names} for parameters.

On SQLite a write begins with BEGIN IMMEDIATE: a transaction that reads
first and then writes would be told "locked" at once, whatever the timeout.
"""

import contextlib
import os
import re
import sqlite3
import threading
import weakref

from twisted.application import service
from twisted.enterprise import adbapi
from twisted.internet import defer, threads
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

MIGRATIONS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "modern_fastapi", "migrations"
)
BUSY = 30.0  # seconds that a SQLite writer waits for another process


class DatabaseError(Exception):
    """
    The database can't be used: one line with the remedy.
    """


class Connection:
    """
    One transaction on one DB-API connection.
    """

    def __init__(self, raw, translate):
        self._raw = raw
        self._translate = translate

    def execute(self, sql, **values):
        """
        @return: the number of rows that were changed.
        """
        return self._raw.execute(self._translate(sql), values).rowcount

    def row(self, sql, **values):
        """
        @return: the first row, a mapping, or L{None}.
        """
        return self._raw.execute(self._translate(sql), values).fetchone()

    def rows(self, sql, **values):
        return self._raw.execute(self._translate(sql), values).fetchall()


@contextlib.contextmanager
def endOf(raw):
    """
    Commit, or roll back and let the error pass.
    """
    try:
        yield
        raw.execute("COMMIT")
    except BaseException:
        # The connection may be broken; what went wrong first is the news.
        with contextlib.suppress(Exception):
            raw.rollback()
        raise


class SQLite:
    """
    What is special about SQLite.
    """

    module = "sqlite3"
    skipLocked = ""
    locks = ("", "")

    def __init__(self, url):
        self.path = url[len("sqlite:///") :]
        # Writers of this process queue here: SQLite's own waiting is a
        # sleep that grows, and loses to whoever comes later.
        self.writing = threading.Lock()

    def connectArguments(self):
        return (self.path,), {
            "timeout": BUSY,
            "isolation_level": None,
            "check_same_thread": False,
        }

    def opened(self, raw):
        raw.row_factory = sqlite3.Row
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = FULL")

    def connect(self):
        arguments, keywords = self.connectArguments()
        raw = sqlite3.connect(*arguments, **keywords)
        try:
            self.opened(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    @contextlib.contextmanager
    def transaction(self, raw, writes):
        with self.writing if writes else contextlib.nullcontext():
            raw.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            with endOf(raw):
                yield

    def translate(self, sql):
        return sql

    def broken(self, raw):
        return False

    def dataVersion(self, raw):
        return raw.execute("PRAGMA data_version").fetchone()[0]

    def lock(self, connection):
        """
        BEGIN IMMEDIATE has locked already.
        """

    def version(self, connection):
        found = connection.row(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
        )
        return currentVersion(connection, found)


class PostgreSQL:
    """
    What is special about PostgreSQL.
    """

    module = "psycopg"
    skipLocked = " FOR UPDATE OF t SKIP LOCKED"
    # To read a row that must not change meanwhile; and one that we will
    # change: two that share it first would wait for each other.
    locks = (" FOR SHARE", " FOR UPDATE")

    def __init__(self, url):
        self.url = url
        self._translated = {}

    def connectArguments(self):
        from psycopg.rows import dict_row

        return (self.url,), {"autocommit": True, "row_factory": dict_row, "connect_timeout": 5}

    def opened(self, raw):
        pass

    def connect(self):
        import psycopg

        arguments, keywords = self.connectArguments()
        return psycopg.connect(*arguments, **keywords)

    @contextlib.contextmanager
    def transaction(self, raw, writes):
        raw.execute("BEGIN" if writes else "BEGIN READ ONLY")
        with endOf(raw):
            yield

    def translate(self, sql):
        try:
            return self._translated[sql]
        except KeyError:
            named = re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", sql.replace("%", "%%"))
            return self._translated.setdefault(sql, named)

    def broken(self, raw):
        return raw.closed

    def dataVersion(self, raw):
        return None

    def lock(self, connection):
        connection.row("SELECT pg_advisory_xact_lock(7236834522)")

    def version(self, connection):
        found = connection.row("SELECT to_regclass('schema_version') AS found")["found"]
        return currentVersion(connection, found)


def currentVersion(connection, found):
    if not found:
        return 0
    row = connection.row("SELECT max(version) AS version FROM schema_version")
    return row["version"] or 0


def migrations(flavour):
    """
    The schema's steps, (version, statements), as data.
    """
    folder = os.path.join(MIGRATIONS, flavour)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".sql"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                statements = re.split(r"(?m)^--;\s*$", file.read())
            yield int(name.split("_")[0]), statements


class Own:
    """
    A thread's own connection; it is closed when the thread ends.
    """

    version = None

    def __init__(self, raw):
        self.raw = raw

    def close(self):
        with contextlib.suppress(Exception):
            self.raw.close()

    __del__ = close


class Database(service.Service):
    """
    The child C{database} of the server's tree.  Its pool is made when it
    starts, not before: threads don't survive twistd's fork.
    """

    log = Logger()
    pool = None

    def __init__(self, url, reactor, size=4):
        self.url = url
        self.reactor = reactor
        self.size = size
        self.flavour = "sqlite" if url.startswith("sqlite:") else "postgresql"
        self.engine = (SQLite if self.flavour == "sqlite" else PostgreSQL)(url)
        self._mine = threading.local()
        self._opened = weakref.WeakSet()

    def migrate(self):
        """
        Bring the schema up to date.  Blocks; called before the start.

        @raise DatabaseError: when the database can't be opened, or is newer
            than this program.
        """
        try:
            with contextlib.closing(self.engine.connect()) as raw:
                self._transact(raw, True, self._migrate)
        except DatabaseError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise DatabaseError(
                f"cannot open the database {withoutPassword(self.url)}: {reason}; see the setting `database`"
            ) from error

    def _migrate(self, connection):
        self.engine.lock(connection)
        present = self.engine.version(connection)
        known = list(migrations(self.flavour))
        newest = known[-1][0]
        if present > newest:
            raise DatabaseError(
                f"the database {withoutPassword(self.url)} has schema {present} and this program"
                f" knows {newest}; run the newer program"
            )
        for version, statements in known:
            if version > present:
                for statement in statements:
                    connection.execute(statement)
                connection.execute("DELETE FROM schema_version")
                connection.execute(
                    "INSERT INTO schema_version (version) VALUES (:version)", version=version
                )

    def startService(self):
        service.Service.startService(self)
        arguments, keywords = self.engine.connectArguments()
        self.pool = adbapi.ConnectionPool(
            self.engine.module,
            *arguments,
            cp_reactor=self.reactor,
            cp_min=1,
            cp_max=self.size,
            cp_openfun=self.engine.opened,
            cp_noisy=False,
            **keywords,
        )

    def stopService(self):
        service.Service.stopService(self)
        pool, self.pool = self.pool, None
        opened, self._opened = self._opened, weakref.WeakSet()
        self._mine = threading.local()
        if pool is None:
            return None
        return self._close(pool, opened)

    def _close(self, pool, opened):
        if not pool.running:
            pool.close()
            return None
        # Closing joins the pool's threads, which would stop the reactor
        # until the last query has ended: a thread of its own waits instead.
        self.reactor.removeSystemEventTrigger(pool.shutdownID)
        closer = ThreadPool(0, 1, name="database-close")
        closer.start()

        def close():
            for own in list(opened):
                own.close()
            pool.finalClose()

        def closed(result):
            closer.stop()
            return result

        return threads.deferToThreadPool(self.reactor, closer, close).addBoth(closed)

    def _transact(self, raw, writes, interaction, *args, **kwargs):
        with self.engine.transaction(raw, writes):
            return interaction(Connection(raw, self.engine.translate), *args, **kwargs)

    def read(self, interaction, *args, **kwargs):
        """
        @return: a Deferred of what C{interaction} returns.
        """
        return self._later(False, interaction, *args, **kwargs)

    def write(self, interaction, *args, **kwargs):
        """
        @return: a Deferred that fires once it is committed.
        """
        return self._later(True, interaction, *args, **kwargs)

    def _later(self, writes, interaction, *args, **kwargs):
        if self.pool is None:
            # adbapi would drop the call without a word.
            return defer.fail(DatabaseError("the database is closed"))
        return self.pool.runWithConnection(self._pooled, writes, interaction, *args, **kwargs)

    def _pooled(self, raw, writes, interaction, *args, **kwargs):
        try:
            return self._transact(raw, writes, interaction, *args, **kwargs)
        except Exception:
            if self.engine.broken(raw):
                raw.reconnect()
            raise

    def readNow(self, interaction, *args, **kwargs):
        return self._now(False, interaction, *args, **kwargs)

    def writeNow(self, interaction, *args, **kwargs):
        return self._now(True, interaction, *args, **kwargs)

    def changedNow(self):
        """
        Whether another connection, of whatever process, has committed since
        this thread asked last.  Cheap, and only for SQLite: PostgreSQL calls
        us, see C{notify}.
        """
        own = self._own()
        before, own.version = own.version, self.engine.dataVersion(own.raw)
        return before != own.version

    def _own(self):
        if self.pool is None:
            raise DatabaseError("the database is closed")
        own = getattr(self._mine, "own", None)
        if own is None:
            own = self._mine.own = Own(self.engine.connect())
            self._opened.add(own)
        return own

    def _now(self, writes, interaction, *args, **kwargs):
        own = self._own()
        try:
            return self._transact(own.raw, writes, interaction, *args, **kwargs)
        except Exception:
            if self.engine.broken(own.raw):
                self.forget()
            raise

    def forget(self):
        """
        Close this thread's own connection, if it has one.
        """
        own = self._mine.__dict__.pop("own", None)
        if own is not None:
            own.close()


def withoutPassword(url):
    return re.sub(r"(//[^/:@]*):[^/@]*@", r"\1@", url)
