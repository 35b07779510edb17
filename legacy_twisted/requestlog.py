"""
The request log: a line for each request, written after the answer.
"""

import json
import os

from twisted.application import service
from twisted.internet import defer, threads
from twisted.logger import Logger

from legacy_twisted.worker import makePool, stopPool


class RequestLog(service.Service):
    """
    The child C{requestlog} of the server's tree.  Lines wait here until a
    thread of its own has time to write them.
    """

    log = Logger()
    _pool = None

    def __init__(self, path, reactor):
        self.path = path
        self.reactor = reactor
        self._lines = []
        self._writing = None

    def startService(self):
        service.Service.startService(self)
        self._pool = makePool("requestlog", 1)
        self._pool.start()

    def note(self, line):
        self._lines.append(line)
        if self._writing is None and self._pool is not None:
            self._flush()

    def _flush(self):
        lines, self._lines = self._lines, []
        self._writing = threads.deferToThreadPool(self.reactor, self._pool, self._write, lines)
        self._writing.addErrback(lambda why: self.log.failure("No request log", why))
        self._writing.addCallback(self._written)

    def _written(self, _):
        self._writing = None
        if self._lines:
            self._flush()

    def _write(self, lines):
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            for line in lines:
                text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
                os.write(descriptor, text.encode("utf-8") + b"\n")
        finally:
            os.close(descriptor)

    @defer.inlineCallbacks
    def stopService(self):
        service.Service.stopService(self)
        while self._writing is not None:
            yield self._writing
        pool, self._pool = self._pool, None
        if pool is not None:
            yield stopPool(self.reactor, pool, 5.0)
