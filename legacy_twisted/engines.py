"""
Who runs the tasks that requests hand in: the setting C{engine}.

Whatever it is, the row is written first, and it is the row that decides:
an engine claims it by its id, or leaves it alone.  What an engine loses,
because the process dies, goes to the durable table (see C{rescue}).
"""

from twisted.application import service
from twisted.internet import defer, threads
from twisted.logger import Logger

from legacy_twisted import tasks
from legacy_twisted.runs import Crew
from legacy_twisted.worker import makePool, stopPool


class Table(service.Service):
    """
    C{table}: the consumer finds the rows, here or in another process.
    """

    rowsSay = "table"

    def __init__(self, jobs):
        self.jobs = jobs

    def start(self, request, taskIds):
        """
        Called when C{taskIds} were committed, before the answer.
        """
        self.jobs.work()


class Threads(service.Service):
    """
    C{thread}: each task goes to a pool at once, C{deferToThread} as ever.
    """

    log = Logger()
    rowsSay = "thread"
    _pool = None

    def __init__(self, jobs):
        self.jobs = jobs

    def startService(self):
        service.Service.startService(self)
        self._pool = makePool("engine", self.jobs.settings.workers)
        self._pool.start()
        # Heartbeats and the end must not queue behind tasks.
        self._keepers = makePool("engine-keepers", 2)
        self._keepers.start()
        self.crew = Crew(self.jobs)
        self._keepers.callInThread(self.crew.beat)

    def start(self, request, taskIds):
        for taskId in taskIds:
            self.later(taskId)

    def later(self, taskId, delay=0.0):
        self.jobs.reactor.callLater(delay, self.now, taskId)

    def now(self, taskId):
        """
        @return: a Deferred that fires when this attempt has ended.
        """
        if not self.running:
            return defer.succeed(None)
        return threads.deferToThreadPool(
            self.jobs.reactor, self._pool, self.perform, taskId
        ).addCallbacks(self.performed, self.failed)

    def perform(self, taskId):
        """
        On a thread of the pool.

        @return: what may run next, (id, delay in seconds).
        """
        if not self.running:
            return []
        row = self.crew.write(tasks.claimOne, taskId, self.jobs.database.engine.skipLocked)
        if row is None:
            # It waits for another task, was cancelled, or somebody has it.
            return []
        self.crew.took(row)
        self.crew.perform(row)
        return self.jobs.database.readNow(tasks.next, taskId)

    def performed(self, coming):
        self.jobs.work()
        for taskId, delay in coming:
            self.later(taskId, delay)

    def failed(self, why):
        self.log.failure("A task could not be started; rescue will find it", why)

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        if self._pool is not None:
            grace = self.jobs.settings.grace
            reactor, pool, self._pool = self.jobs.reactor, self._pool, None
            yield threads.deferToThreadPool(reactor, self._keepers, self.crew.drain, grace)
            self.crew.end()
            yield stopPool(reactor, pool, 0.0 if len(self.crew) else grace)
            yield stopPool(reactor, self._keepers, grace)


class Inline(Threads):
    """
    C{inline}: after C{request.finish()}, a request's tasks one after the
    other.  They are for threads, because they block.
    """

    rowsSay = "inline"

    def start(self, request, taskIds):
        request.notifyFinish().addBoth(lambda _: self.inTurn(taskIds))

    @defer.inlineCallbacks
    def inTurn(self, taskIds):
        for taskId in taskIds:
            yield self.now(taskId)


ENGINES = {engine.rowsSay: engine for engine in (Table, Threads, Inline)}
