"""
The consumer: claims tasks that are due, and runs them on a pool of threads.

L{BackgroundWorker} is the old C{while True} loop under C{deferToThread},
with what it lacked: it can be stopped, it wakes at once when there is work,
its tasks survive it, and it has threads of its own, so that a busy worker
never keeps the reactor's pool from resolving a name.
"""

import functools
import json
import threading
import time

from twisted.internet import defer, threads
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from legacy_twisted import functions, tasks
from legacy_twisted.loops import Fenced, Loop, fork

BEAT = 1.0  # seconds between two heartbeats
LOOK = 0.2  # seconds between two looks at a running row


class Cancelled(Exception):
    """
    Somebody asked to cancel the task.
    """


class Interrupted(Exception):
    """
    The server stops: the task is given back.
    """


class Run:
    """
    One attempt at one task, as its function sees it.  Lives on one thread.
    """

    def __init__(self, worker, row):
        self.worker = worker
        self.jobs = worker.jobs
        self.row = row
        self.id = row["id"]
        self.params = json.loads(row["params"])
        self.again = row["attempts"] > 1
        self.writes = []
        self._began = self._looked = time.monotonic()

    def atEnd(self, write, **values):
        """
        Add C{write(connection, **values)} to the transaction that ends the
        task: it happens exactly once, with SUCCESS.
        """
        self.writes.append(functools.partial(write, **values))

    def checkpoint(self, progress=0.0):
        """
        Called between two steps; where a task can be cancelled, given back
        or timed out.

        @param progress: 0 to 1.
        """
        if self.worker.abandoning.is_set():
            raise Interrupted()
        now = time.monotonic()
        timeout = self.row["timeout"]
        if timeout is not None and now - self._began > timeout:
            raise TimeoutError(f"ran longer than {timeout:g} seconds")
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self.worker.write(tasks.progress, self.row, progress):
            raise Cancelled()


class BackgroundWorker:
    """
    Runs on the threads of C{pool}: C{run} on one, C{beat} on another, and
    each task on one more.

    @ivar stopping: set to make C{run} claim no more, wait and return.
    @ivar abandoning: set when running tasks have had their time.
    """

    log = Logger()
    refused = None

    def __init__(self, jobs, pool, fence):
        self.jobs = jobs
        self.pool = pool
        self.fence = fence
        self.stopping = threading.Event()
        self.abandoning = threading.Event()
        self.ended = threading.Event()
        self._awake = threading.Event()
        self._idle = threading.Condition()
        self._running = {}

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
            while not self.stopping.is_set():
                self._awake.clear()
                pause = self._round()
                if pause:
                    self._awake.wait(pause)
            if self.refused is None:
                self._drain(self.jobs.settings.grace)
        finally:
            self.abandoning.set()
            self.ended.set()
            self.jobs.database.forget()
        if self.refused is not None:
            raise self.refused

    def _round(self):
        """
        @return: how many seconds to wait for the next one.
        """
        poll = self.jobs.settings.poll
        free = self.jobs.settings.workers - len(self._running)
        if free <= 0:
            return poll
        try:
            rows, coming = self.write(tasks.claim, free, self.jobs.database.engine.skipLocked)
        except Fenced as error:
            self._refuse(error)
            return 0
        except Exception:
            self.log.failure("Can't claim tasks; trying again")
            return poll
        for row in rows:
            self._running[row["id"], row["attempts"]] = row
            self.pool.callInThread(self.perform, row)
        if len(rows) == free:
            return 0
        return poll if coming is None else min(poll, max(0.001, tasks.until(coming)))

    def _refuse(self, error):
        self.refused = error
        self.stop()

    def _drain(self, grace):
        with self._idle:
            if not self._idle.wait_for(lambda: not self._running, grace / 2):
                self.abandoning.set()
                self._idle.wait_for(lambda: not self._running, grace / 2)
        for row in list(self._running.values()):
            self.log.error("Task {id} is left behind; rescue will find it", id=row["id"])

    def beat(self):
        """
        Once a second: show that the running tasks are alive, and that we are.
        """
        while not self.ended.wait(BEAT):
            try:
                self.write(self._beat)
            except Fenced as error:
                self._refuse(error)
                break
            except Exception:
                self.log.failure("A heartbeat failed; trying again")
        self.jobs.database.forget()

    def _beat(self, connection, owner):
        tasks.beat(connection, owner, list(self._running))
        self.fence.ticked(connection)

    def perform(self, row):
        """
        Run one task to its end, whatever that is.
        """
        try:
            ending = self._attempt(Run(self, row))
            self._finish(row, ending)
        except (tasks.Lost, Fenced):
            self.log.error("Task {id} was taken by somebody else; its result is dropped", **row)
        except Exception:
            self.log.failure("Task {id} could not be ended; rescue will find it", **row)
        finally:
            with self._idle:
                del self._running[row["id"], row["attempts"]]
                self._idle.notify_all()
            self.wake()

    def _attempt(self, run):
        """
        @return: the write that ends the attempt.
        """
        try:
            result = functions.find(run.row["name"])(run)
        except Cancelled:
            return tasks.cancelled
        except Interrupted:
            return tasks.release
        except (tasks.Lost, Fenced):
            raise
        except BaseException as error:
            # SystemExit too: a task must not end its worker.
            self.log.failure("Task {id} ({name}) failed", **run.row)
            return functools.partial(tasks.fail, error=error)

        def succeed(connection, owner, row):
            tasks.succeed(connection, owner, row, result)
            for write in run.writes:
                write(connection)

        return succeed

    def _finish(self, row, ending):
        # The work is done: it would be a pity to do it again because the
        # database was away for a moment.
        for pause in (0.1, 0.5, 1.0, None):
            try:
                return self.write(ending, row)
            except (tasks.Lost, Fenced):
                raise
            except Exception:
                if pause is None:
                    raise
                time.sleep(pause)

    def write(self, interaction, *args):
        """
        One transaction behind the fence.
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
        self.jobs.noMoreWork(worker.wake)
        worker.stop()
        yield fork(self._finished)
        yield stopPool(self.reactor, self._pool, self.jobs.settings.grace)
