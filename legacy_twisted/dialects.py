"""
What is special about SQLite and about PostgreSQL: how each connects, begins,
locks and waits, and the schema's steps for it.

Nothing here knows threads or the reactor; C{database} does.  On SQLite a
write begins with BEGIN IMMEDIATE: a transaction that reads first and then
writes would be told "locked" at once, whatever the timeout.
"""

import contextlib
import os
import re
import sqlite3
import threading
import time

MIGRATIONS = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "modern_fastapi", "migrations"
)
BUSY = 30.0  # seconds that a SQLite writer waits for another process
SLICE = 2.0  # seconds at a time, so that a stop needn't wait for all of them


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


def isBusy(error):
    """
    Whether SQLite says that another connection has the lock.
    """
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


class SQLite:
    """
    What is special about SQLite.
    """

    module = "sqlite3"
    writers = 1  # more could only wait for each other
    skipLocked = ""
    locks = ("", "")

    def __init__(self, url):
        self.path = url[len("sqlite:///") :]
        # Writers of this process queue here: SQLite's own waiting is a
        # sleep that grows, and loses to whoever comes later.
        self.writing = threading.Lock()
        self.latest = float("inf")

    def hurry(self, seconds):
        """
        The server stops: from C{seconds} on, nobody waits for a lock.
        """
        self.latest = time.monotonic() + seconds

    def connectArguments(self):
        return (self.path,), {
            "timeout": SLICE,
            "isolation_level": None,
            "check_same_thread": False,
        }

    def opened(self, raw):
        raw.row_factory = sqlite3.Row
        self._writeAhead(raw)
        raw.execute("PRAGMA synchronous = FULL")

    def _writeAhead(self, raw):
        # Who turns a new file to it while another process does, or writes
        # already, is told "locked" at once: the timeout doesn't cover this.
        enough = time.monotonic() + SLICE
        while True:
            try:
                raw.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not isBusy(error) or time.monotonic() > min(enough, self.latest):
                    raise
            time.sleep(0.01)

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
            if writes:
                self._lock(raw)
            else:
                raw.execute("BEGIN")
            with endOf(raw):
                yield

    def _lock(self, raw):
        enough = time.monotonic() + BUSY
        while True:
            if time.monotonic() > self.latest:
                raw.execute("PRAGMA busy_timeout = 0")
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not isBusy(error) or time.monotonic() > min(enough, self.latest):
                    raise

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
    writers = 4
    skipLocked = " FOR UPDATE OF t SKIP LOCKED"
    # To read a row that must not change meanwhile; and one that we will
    # change: two that share it first would wait for each other.
    locks = (" FOR SHARE", " FOR UPDATE")

    def __init__(self, url):
        self.url = url
        self._translated = {}

    def hurry(self, seconds):
        """
        Nobody can hold all of it.
        """

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
        """
        The number is also modern's: whichever migrates, the others wait.
        """
        connection.row("SELECT pg_advisory_xact_lock(7236834520)")

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
