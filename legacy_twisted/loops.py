"""
What every background loop is: a service with a fence.

The fence is a row of the table C{loops}.  A loop starts by taking it for an
epoch, and every write of the loop is checked against it in the same
transaction: whoever was paused or stalled while another took over can't
commit any more.

A loop that stands alone (C{epoch} is L{None}) adopts the epoch that is
there, and comes back by itself a while after it was fenced off.  A harness
that moves loops sets C{epoch} before C{startService}, and starts and stops
the loop itself.
"""

import datetime

from twisted.application import service
from twisted.internet import defer, task
from twisted.logger import Logger

from legacy_twisted.tasks import timestamp

COMEBACK = 5.0  # seconds until a loop that stands alone tries again


class Fenced(Exception):
    """
    The loop belongs to somebody else now.

    @ivar epoch: the fence's epoch.
    """

    def __init__(self, name, mine, epoch):
        Exception.__init__(
            self,
            f"the loop {name} has epoch {epoch} and this one was started with {mine}: it runs elsewhere,"
            " and nothing more is written here",
        )
        self.epoch = epoch


class Fence:
    """
    One loop's right to write.

    @ivar epoch: the epoch that is held, or L{None} before the start.
    """

    epoch = None

    def __init__(self, name, owner, database):
        self.name = name
        self.owner = owner
        self._locks = database.engine.locks

    def take(self, connection, epoch):
        """
        Hold the fence for C{epoch}; for L{None} adopt the present one.
        """
        changed = connection.execute(
            "UPDATE loops SET epoch = coalesce(:epoch, epoch), owner = :owner, state = 'running'"
            " WHERE name = :name AND epoch <= coalesce(:epoch, epoch)",
            epoch=epoch,
            owner=self.owner,
            name=self.name,
        )
        present = self._present(connection)
        if not changed:
            raise Fenced(self.name, epoch, present)
        self.epoch = present

    def check(self, connection, ticks=False):
        """
        Called inside each transaction that writes for the loop, before it
        writes.

        @param ticks: whether the transaction will change the fence's row.
        """
        present = self._present(connection, ticks)
        if present != self.epoch:
            raise Fenced(self.name, self.epoch, present)

    def _present(self, connection, ticks=True):
        sql = "SELECT epoch FROM loops WHERE name = :name" + self._locks[ticks]
        return connection.row(sql, name=self.name)["epoch"]

    def ticked(self, connection, count=1):
        connection.execute(
            "UPDATE loops SET last_tick = :now, ticks = ticks + :count"
            " WHERE name = :name AND epoch = :epoch",
            now=timestamp(),
            count=count,
            name=self.name,
            epoch=self.epoch,
        )

    def erred(self, connection, error):
        connection.execute(
            "UPDATE loops SET errors = errors + 1, last_error = :error"
            " WHERE name = :name AND epoch = :epoch",
            error=error,
            name=self.name,
            epoch=self.epoch,
        )

    def left(self, connection, state):
        # Only while the row still names us: the next owner's state stands there else.
        connection.execute(
            "UPDATE loops SET state = :state WHERE name = :name AND owner = :owner",
            state=state,
            name=self.name,
            owner=self.owner,
        )


class Loop(service.Service):
    """
    A background loop, a named child of the server's tree.

    Subclasses have C{begin}, and C{end}, which gives a Deferred that waits
    for the running tick and its thread.

    @ivar epoch: set by a harness before C{startService}, or L{None}.
    @ivar observe: set by a harness that compares this loop with its
        successor, or L{None}: C{observe(tick, effects)} hears what a tick has
        committed, and C{observe.before(tick, **facts)} gives a Deferred that
        fires when the successor has looked at what the tick will change.
    @ivar state: C{"stopped"}, C{"running"}, C{"failed"} or C{"fenced"}.
    """

    log = Logger()
    epoch = None
    observe = None
    state = "stopped"
    _started = None
    _comeback = None

    def __init__(self, jobs):
        self.jobs = jobs
        self.reactor = jobs.reactor
        self.database = jobs.database
        self.fence = Fence(self.name, jobs.owner, jobs.database)
        self._waiting = []

    def startService(self):
        """
        @return: a Deferred of the epoch held; it fails with L{Fenced} when
            the given epoch is older than the fence's.
        """
        service.Service.startService(self)
        self._started = self._start()
        return fork(self._started)

    @defer.inlineCallbacks
    def _start(self):
        while self.running:
            try:
                yield self.database.write(self.fence.take, self.epoch)
            except Exception as error:
                if self.epoch is not None:
                    self._leave("fenced" if isinstance(error, Fenced) else "failed", error)
                    raise
                self.log.failure("The loop {name} can't start yet", name=self.name)
                yield task.deferLater(self.reactor, 1.0, lambda: None)
            else:
                self.state = "running"
                self.begin()
                break
        return self.fence.epoch

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        if self._comeback is not None and self._comeback.active():
            self._comeback.cancel()
        yield defer.DeferredList([fork(self._started)], consumeErrors=True)
        yield self.end()
        if self.state == "running":
            try:
                yield self.database.write(self.fence.left, "stopped")
            except Exception:
                self.log.failure("The loop {name} stopped without a note", name=self.name)
            self._leave("stopped")

    def before(self, tick, **facts):
        """
        @return: a Deferred that fires when the tick may begin.
        """
        observe = self.observe
        return defer.succeed(None) if observe is None else observe.before(tick, **facts)

    def tell(self, effects, tick):
        """
        Say what a tick has done, a list of C{(kind, key, value)}; L{None}
        when it wasn't ours.  Any thread may call this.
        """
        observe = self.observe
        if observe is not None and effects is not None:
            observe(tick, effects)
        return effects

    def whenEnded(self):
        """
        @return: a Deferred that fires once the loop, its running tick and
            its thread have ended; it fails with what ended them, unless
            that was C{stopService}.
        """
        waiting = defer.Deferred()
        self._waiting.append(waiting)
        return waiting

    def _leave(self, state, error=None):
        self.state = state
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(state) if error is None else each.errback(error)

    @defer.inlineCallbacks
    def fencedOff(self, error):
        """
        A write was refused: stop at once, and say so once.
        """
        if self.state != "running":
            return
        self.log.error("{error}", error=str(error))
        self.state = "fenced"
        yield self.end()
        self._leave("fenced", error)
        if self.running and self.epoch is None:
            self._comeback = self.reactor.callLater(COMEBACK, self._comeBack)

    def _comeBack(self):
        self._started = self._start()
        self._started.addErrback(lambda why: self.log.failure("No way back", why))


class PeriodicLoop(Loop):
    """
    A loop that does its work once in an interval of C{interval} seconds.
    """

    interval = 1.0
    _ticking = None

    def begin(self):
        self._looping = task.LoopingCall(self.tick)
        self._looping.clock = self.reactor
        self._ticking = self._looping.start(self.interval, now=True)

    def end(self):
        # LoopingCall's Deferred fires when the tick that runs has ended.
        if self._ticking is None:
            return defer.succeed(None)
        if self._looping.running:
            self._looping.stop()
        return fork(self._ticking)

    def tick(self):
        """
        One tick.  It never fails, because a LoopingCall ends for good at the
        first error: errors are logged and counted.
        """
        if self.state != "running":
            return None
        return defer.maybeDeferred(self.work).addErrback(self._failed)

    def _failed(self, why):
        if why.check(Fenced):
            # Not waited for: ending waits for this very tick.
            self.fencedOff(why.value)
            return None
        self.log.failure("A tick of {name} failed; the loop goes on", why, name=self.name)
        text = f"{why.type.__name__}: {why.getErrorMessage()}"
        noted = self.database.write(self.fence.erred, text[:2000])
        return noted.addErrback(lambda _: None)

    def scheduled(self):
        """
        The time that this tick is for, the same in every process.
        """
        seconds = self.jobs.now().timestamp()
        moment = seconds - seconds % self.interval
        return datetime.datetime.fromtimestamp(moment, datetime.UTC)

    def key(self, when):
        """
        The name of the tick of C{when}, the same in every process.
        """
        return f"{self.name}@{timestamp(when)}"

    def once(self, connection, when, work=None, *args):
        """
        Inside a transaction: do C{work} unless another scheduler has had
        the tick of C{when}.

        @return: the effects that C{work} tells, or L{None} when it wasn't
            ours.
        """
        self.fence.check(connection, ticks=True)
        ours = connection.execute(
            "INSERT INTO ticks (key, loop, owner, epoch, committed_at)"
            " VALUES (:key, :name, :owner, :epoch, :now) ON CONFLICT DO NOTHING",
            key=self.key(when),
            name=self.name,
            owner=self.fence.owner,
            epoch=self.fence.epoch,
            now=timestamp(),
        )
        effects = []
        if ours and work is not None:
            effects = work(connection, *args) or effects
        self.fence.ticked(connection, ours)
        return effects if ours else None


def fork(deferred):
    """
    A second Deferred with the same outcome; cancelling it leaves the first alone.
    """
    if deferred is None:
        return defer.succeed(None)
    second = defer.Deferred()

    def succeeded(result):
        second.callback(result)
        return result

    def failed(why):
        second.errback(why)

    deferred.addCallbacks(succeeded, failed)
    return second
