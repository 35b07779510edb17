"""
PostgreSQL's NOTIFY: work that other processes hand in wakes us at once.

SQLite has nothing like it; there the consumer looks itself, see C{worker}.
"""

import threading

from twisted.application import service
from twisted.internet import defer, threads
from twisted.logger import Logger

from legacy_twisted.worker import makePool, stopPool

LOOK = 0.5  # seconds until the thread sees that it should stop


class Notify(service.Service):
    """
    The child C{notify} of the server's tree, where the database is
    PostgreSQL: one connection and one thread that listen.
    """

    log = Logger()
    _pool = None

    def __init__(self, jobs):
        self.jobs = jobs

    def startService(self):
        service.Service.startService(self)
        self._stopping = threading.Event()
        self._ringing = threading.Event()
        self._pool = makePool("notify", 1)
        self._pool.start()
        self._ended = threads.deferToThreadPool(self.jobs.reactor, self._pool, self.run)

    def run(self):
        """
        Listen until told to stop; come back when the connection breaks.
        """
        while not self._stopping.is_set():
            try:
                self._listen()
            except Exception:
                self.log.failure("Notifications are away; polling goes on")
                self._stopping.wait(1.0)

    def _listen(self):
        with self.jobs.database.engine.connect() as raw:
            raw.execute("LISTEN jobs")
            while not self._stopping.is_set():
                for notification in raw.notifies(timeout=LOOK, stop_after=1):
                    # Nobody waits for a task to begin.
                    if notification.payload != "RUNNING" and not self._ringing.is_set():
                        self._ringing.set()
                        self.jobs.reactor.callFromThread(self._ring)

    def _ring(self):
        self._ringing.clear()
        self.jobs.work()

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        if self._pool is not None:
            self._stopping.set()
            yield self._ended
            yield stopPool(self.jobs.reactor, self._pool, 5.0)
            self._pool = None
