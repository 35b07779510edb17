"""
A pool of processes for work that would keep a thread, and so all threads,
from running.  It is made when it is first used, and made again when one of
its children was killed.
"""

import concurrent.futures
import multiprocessing
import threading
from concurrent.futures.process import BrokenProcessPool

from twisted.application import service
from twisted.internet import threads

from legacy_twisted.primes import beginChild, countPrimes

TRIES = 5  # a child that dies takes the work of its siblings along


class Processes(service.Service):
    """
    The child C{processes} of the server's tree.
    """

    def __init__(self, size=2):
        self.size = size
        self._lock = threading.Lock()
        self._pool = None

    def run(self, run, n):
        """
        Count primes in a child.  Blocks; for threads of the consumer.
        """
        for _ in range(TRIES):
            pool = self._present()
            try:
                return self._wait(run, pool.submit(countPrimes, n))
            except BrokenProcessPool:
                self._replace(pool)
        raise RuntimeError(f"the process pool broke {TRIES} times")

    def _wait(self, run, future):
        while True:
            try:
                return future.result(timeout=0.1)
            except concurrent.futures.TimeoutError:
                try:
                    run.checkpoint(0.5)
                except BaseException:
                    future.cancel()
                    raise

    def _present(self):
        with self._lock:
            if self._pool is None:
                # Not fork: the children would inherit locks that threads hold.
                self._pool = concurrent.futures.ProcessPoolExecutor(
                    self.size,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=beginChild,
                )
            return self._pool

    def _replace(self, broken):
        with self._lock:
            if self._pool is broken:
                self._pool = None
        broken.shutdown(wait=False)

    def stopService(self):
        service.Service.stopService(self)
        pool, self._pool = self._pool, None
        if pool is not None:
            return threads.deferToThread(pool.shutdown, wait=True, cancel_futures=True)
        return None
