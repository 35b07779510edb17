"""
The database: SQLite in WAL mode, or PostgreSQL, behind four verbs.

C{read} and C{write} are for the reactor's thread and give Deferreds (adbapi
pools do the work); C{readNow} and C{writeNow} block, and are for threads
that may.  All four run C{interaction(connection, *args)} in one transaction;
a L{Connection} has C{execute}, C{row} and C{rows}, with C{:names} for
parameters.

Readers and writers have pools of their own: writers may have to wait for
another process's, and would take a common pool's threads with them.
"""

import contextlib
import re
import threading
import weakref

from twisted.application import service
from twisted.enterprise import adbapi
from twisted.internet import defer, threads
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from legacy_twisted.dialects import Connection, PostgreSQL, SQLite, migrations


class DatabaseError(Exception):
    """
    The database can't be used: one line with the remedy.
    """


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
    The child C{database} of the server's tree.  Its pools are made when it
    starts, not before: threads don't survive twistd's fork.

    @ivar pool: the readers' pool, and L{None} while nothing may be asked.
    @ivar writers: the other one.
    """

    log = Logger()
    pool = None
    writers = None

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
        self.pool = self._makePool(self.size)
        self.writers = self._makePool(self.engine.writers)

    def _makePool(self, size):
        arguments, keywords = self.engine.connectArguments()
        return adbapi.ConnectionPool(
            self.engine.module,
            *arguments,
            cp_reactor=self.reactor,
            cp_min=1,
            cp_max=size,
            cp_openfun=self.engine.opened,
            cp_noisy=False,
            **keywords,
        )

    def hurry(self, seconds):
        """
        Let no writer wait for another process's lock for longer than that.
        """
        self.engine.hurry(seconds)

    def stopService(self):
        service.Service.stopService(self)
        pools = [pool for pool in (self.pool, self.writers) if pool is not None]
        self.pool = self.writers = None
        opened, self._opened = self._opened, weakref.WeakSet()
        self._mine = threading.local()
        running = [pool for pool in pools if pool.running]
        for pool in pools:
            if pool not in running:
                pool.close()
        return self._close(running, opened) if running else None

    def _close(self, pools, opened):
        # Closing joins the pools' threads, which would stop the reactor
        # until the last query has ended: a thread of its own waits instead.
        for pool in pools:
            self.reactor.removeSystemEventTrigger(pool.shutdownID)
        closer = ThreadPool(0, 1, name="database-close")
        closer.start()

        def close():
            for own in list(opened):
                own.close()
            for pool in pools:
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
        pool = self.writers if writes else self.pool
        return pool.runWithConnection(self._pooled, writes, interaction, *args, **kwargs)

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
