"""
The consumer: claims tasks that are due, and runs them on a pool of threads.

L{BackgroundWorker} is the old C{while True} loop under C{deferToThread},
with what it lacked: it can be stopped, it wakes at once when there is work,
its tasks survive it, and it has threads of its own, so that a busy worker
never keeps the reactor's pool from resolving a name.
"""

import functools
import threading
import time

from twisted.internet import defer, threads
from twisted.python.threadpool import ThreadPool

from legacy_twisted import tasks
from legacy_twisted.loops import Fenced, Loop, fork
from legacy_twisted.runs import Crew

GLANCE = 0.03  # seconds between two looks at whether SQLite has changed
LULL = 0.02  # the share of the time without a task that they grow to
RARELY = 0.3  # but not longer than this


class BackgroundWorker(Crew):
    """
    Runs on the threads of C{pool}: C{run} on one, C{beat} on another, and
    each task on one more.

    @ivar stopping: set to make C{run} claim no more, wait and return.
    @ivar loop: the loop whose C{observe} hears what was claimed, or L{None}.
    """

    refused = None
    loop = None
    _coming = None

    def __init__(self, jobs, pool, fence):
        Crew.__init__(self, jobs)
        self.pool = pool
        self.fence = fence
        self.stopping = threading.Event()
        self._busy = time.monotonic()
        self._awake = threading.Event()

    def wake(self):
        """
        There may be something to do.  Any thread may call this.
        """
        self._awake.set()

    def stop(self):
        """
        Ask C{run} to end.
        """
        self.stopping.set()
        self._awake.set()

    def run(self):
        """
        Claim and start tasks until told to stop; then wait for what runs.

        @raise Fenced: when the loop was taken away.
        """
        try:
            rung = True
            while not self.stopping.is_set():
                # Before the claim: what comes during it isn't missed.
                self._awake.clear()
                if self._changed() or rung or self._untilComing() <= 0 or self._due():
                    pause = self._round()
                rung = not pause or self._sleep(max(0.001, min(pause, self._untilComing())))
            if self.refused is None:
                self.drain(self.jobs.settings.grace)
        finally:
            self.end()
            self.jobs.database.forget()
        if self.refused is not None:
            raise self.refused

    def _sleep(self, pause):
        """
        Wait for C{wake}, for another process's work, or C{pause} seconds.

        @return: whether there may be something to do.
        """
        end = time.monotonic() + pause
        if self.jobs.database.flavour != "sqlite":
            glance = pause
        else:
            lull = time.monotonic() - self._busy
            glance = max(GLANCE, min(RARELY, LULL * lull))
        while (left := end - time.monotonic()) > 0:
            if self._awake.wait(min(glance, left)) or self._changed():
                return True
        return False

    def _changed(self):
        try:
            return self.jobs.database.changedNow()
        except Exception:
            # The next claim will say it.
            return False

    def _due(self):
        """
        Whether a claim is worth a transaction that writes, where nothing has
        changed: time alone may make a row due, or open a limit.
        """
        if self.loop is not None and self.loop.observe is not None:
            return True
        try:
            return self.jobs.database.readNow(tasks.isDue)
        except Exception:
            # The claim will say it.
            return True

    def _untilComing(self):
        return float("inf") if self._coming is None else tasks.until(self._coming)

    def _round(self):
        """
        @return: how many seconds to wait for the next one.
        """
        poll = self.jobs.settings.poll
        free = self.jobs.settings.workers - len(self)
        self._coming = None
        if free <= 0:
            return poll
        observe = None if self.loop is None else self.loop.observe
        tick = self._announced(observe, free) if observe is not None else None
        try:
            rows, self._coming = self.write(tasks.claim, free, self.jobs.database.engine.skipLocked)
        except Fenced as error:
            self.refuse(error)
            return 0
        except Exception:
            self.log.failure("Can't claim tasks; trying again")
            return poll
        if tick is not None:
            self._tell(observe, tick, rows)
        if rows:
            self._busy = time.monotonic()
        for row in rows:
            self.took(row)
            self.pool.callInThread(self.perform, row)
        return 0 if len(rows) == free else poll

    def _announced(self, observe, free):
        """
        Let the successor look at what there is to claim.

        @return: the moment that it looks at; what comes later isn't told.
        """
        until = tasks.timestamp()
        threads.blockingCallFromThread(
            self.jobs.reactor, observe.before, f"consumer@{until}", until=until, limit=free
        )
        return until

    def _tell(self, observe, until, rows):
        claimed = [
            ("claim", f"tasks:{row['id']}", {"name": row["name"], "attempt": row["attempts"]})
            for row in rows
            if max(row["created_at"], row["run_at"]) <= until
        ]
        if claimed:
            observe(f"consumer@{until}", claimed)

    def refuse(self, error):
        self.refused = error
        self.stop()

    def beatOnce(self, connection, owner):
        self.fence.check(connection, ticks=True)
        Crew.beatOnce(self, connection, owner)
        self.fence.ticked(connection)

    def performed(self, row):
        self.wake()

    def write(self, interaction, *args):
        """
        The same, behind the fence.
        """
        return self.jobs.database.writeNow(self._fenced, interaction, *args)

    def _fenced(self, connection, interaction, *args):
        self.fence.check(connection)
        return interaction(connection, self.jobs.boot, *args)


def makePool(name, size):
    """
    Threads that don't keep the process from exiting: a task that hangs is
    left behind after the grace period, and rescued by its heartbeat.
    """
    pool = ThreadPool(0, size, name=name)
    pool.threadFactory = functools.partial(threading.Thread, daemon=True)
    return pool


def stopPool(reactor, pool, patience):
    """
    Join the pool's threads without stopping the reactor meanwhile.

    @return: a Deferred that fires when they have ended, or after
        C{patience} seconds.
    """
    joined = defer.Deferred()

    def join():
        pool.stop()
        reactor.callFromThread(fire)

    def fire():
        if not joined.called:
            joined.callback(None)
            if late.active():
                late.cancel()

    late = reactor.callLater(patience, fire)
    threading.Thread(target=join, name="join", daemon=True).start()
    return joined


class Consumer(Loop):
    """
    The service C{consumer}.
    """

    name = "consumer"
    worker = None
    _finished = None

    def begin(self):
        self._pool = makePool("consumer", self.jobs.settings.workers + 2)
        self._pool.start()
        self.worker = BackgroundWorker(self.jobs, self._pool, self.fence)
        self.worker.loop = self
        self._pool.callInThread(self.worker.beat)
        self._finished = threads.deferToThreadPool(self.reactor, self._pool, self.worker.run)
        self._finished.addErrback(self._failed)
        self.jobs.whenWork(self.worker.wake)

    def _failed(self, why):
        if why.check(Fenced):
            self.fencedOff(why.value)
            return
        self.log.failure("The consumer died; starting it again", why)
        self.end().addBoth(lambda _: self.database.write(self.fence.left, "failed")).addBoth(
            lambda _: self.reactor.callLater(1.0, self._again)
        )

    def _again(self):
        if self.running and self.state == "running":
            self._comeBack()

    @defer.inlineCallbacks
    def end(self):
        worker, self.worker = self.worker, None
        if worker is None:
            return
        # Another start may come before we are done.
        pool, finished = self._pool, self._finished
        self.jobs.noMoreWork(worker.wake)
        worker.stop()
        yield fork(finished)
        # Who was left behind had the grace period already.
        patience = 0.0 if len(worker) else self.jobs.settings.grace
        yield stopPool(self.reactor, pool, patience)
