"""
C{GET /events}: changes of tasks as server-sent events.

One L{EventSource} reads the table of events for all clients.  A client has
no buffer: it has the number of the last event that it was sent.  One that
reads slowly is paused by its transport, and goes on from its number when it
reads again, from the source's memory or, when that is too short, from the
database.  Thousands of slow readers cost a number each.
"""

import bisect
import json

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from legacy_twisted.fields import Parameters
from legacy_twisted.web import Page

PAGE = 200  # events that are read or sent at a time
REMEMBERED = 2000
POLL = 0.1  # seconds between two looks for what other processes did
GATHER = 0.02  # seconds after which our own changes are shown, many at a time


def newest(connection):
    return connection.row("SELECT max(seq) AS seq FROM events")["seq"] or 0


def eventsAfter(connection, seq):
    rows = connection.rows(
        "SELECT seq, task_id, name, status, attempts, at FROM events"
        " WHERE seq > :seq ORDER BY seq LIMIT :page",
        seq=seq,
        page=PAGE,
    )
    return [(row["seq"], render(row)) for row in rows]


def render(row):
    data = {
        "id": row["task_id"],
        "name": row["name"],
        "status": row["status"],
        "attempts": row["attempts"],
        "at": row["at"],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {row['seq']}\nevent: task\ndata: {text}\n\n".encode()


class EventSource(service.Service):
    """
    The child C{events} of the server's tree.  It looks into the database
    only while somebody listens.
    """

    log = Logger()

    def __init__(self, jobs):
        self.jobs = jobs
        self.listeners = set()
        self.numbers = []
        self.texts = []
        self.last = None  # the number of the newest event that was read
        self._looking = None
        self._again = False
        self._soon = None
        self._looping = task.LoopingCall(self.look)
        self._looping.clock = jobs.reactor

    def startService(self):
        service.Service.startService(self)
        self.jobs.whenWork(self.soon)

    def stopService(self):
        service.Service.stopService(self)
        self.jobs.noMoreWork(self.soon)
        self._quiet()
        for listener in list(self.listeners):
            listener.finish()
        return self._looking

    def add(self, listener):
        self.listeners.add(listener)
        if not self._looping.running:
            self._looping.start(POLL)

    def remove(self, listener):
        self.listeners.discard(listener)
        if not self.listeners:
            self._quiet()

    def _quiet(self):
        if self._looping.running:
            self._looping.stop()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        # What happens while nobody listens isn't read, and would be a gap.
        self.numbers, self.texts, self.last = [], [], None

    def soon(self):
        """
        Something has changed here, and more of it may follow at once: one
        write to each client is enough for all of it.
        """
        if self.listeners and self._soon is None:
            self._soon = self.jobs.reactor.callLater(GATHER, self._lookNow)

    def _lookNow(self):
        self._soon = None
        self.look()

    def look(self):
        """
        Read what is new.  Any number of calls make one query at a time.
        """
        if not self.listeners:
            return
        if self._looking is not None:
            self._again = True
            return
        self._looking = self._read()
        self._looking.addErrback(lambda why: self.log.failure("Can't read events", why))
        self._looking.addBoth(self._looked)

    @defer.inlineCallbacks
    def _read(self):
        if self.last is None:
            self.last = yield self.jobs.database.read(newest)
            # What was committed since they looked for themselves isn't new
            # to us, and nobody else would tell them.
            self._tell()
        while self.listeners:
            events = yield self.jobs.database.read(eventsAfter, self.last)
            if not events or self.last is None:
                break
            self._remember(events)
            self._tell()

    def _tell(self):
        for listener in list(self.listeners):
            listener.more()

    def _remember(self, events):
        self.numbers.extend(seq for seq, _ in events)
        self.texts.extend(text for _, text in events)
        self.last = self.numbers[-1]
        if len(self.numbers) > 2 * REMEMBERED:
            del self.numbers[:-REMEMBERED]
            del self.texts[:-REMEMBERED]

    def _looked(self, _):
        self._looking = None
        if self._again:
            self._again = False
            self.jobs.reactor.callLater(0, self.look)

    def after(self, seq):
        """
        @return: up to a page of (number, text) after C{seq}: a list where
            memory has them, or else a Deferred of one.
        """
        if self.last is not None and seq >= self.last:
            return []
        # Where numbers are missing, memory can't know that it has all.
        if self.numbers and self.numbers[0] <= seq + 1:
            start = bisect.bisect_right(self.numbers, seq)
            end = start + PAGE
            return list(zip(self.numbers[start:end], self.texts[start:end], strict=True))
        return self.jobs.database.read(eventsAfter, seq)


@implementer(IPushProducer)
class EventStream:
    """
    One client's stream.
    """

    log = Logger()

    def __init__(self, request, source, seq, heartbeat):
        self.request = request
        self.source = source
        self.seq = seq
        self.paused = False
        self.ended = False
        self._waiting = False
        self._heart = task.LoopingCall(self.beat)
        self._heart.clock = source.jobs.reactor
        self._heartbeat = heartbeat

    def start(self):
        self.request.notifyFinish().addBoth(self._gone)
        self.request.registerProducer(self, True)
        self.request.write(b"retry: 2000\n\n")
        self._heart.start(self._heartbeat, now=False)
        self.source.add(self)
        self.more()

    def beat(self):
        if not self.paused and not self.ended:
            self.request.write(b": keep-alive\n\n")

    def more(self):
        """
        Send what is there, until all is sent or the client is slow.
        """
        while not (self.paused or self.ended or self._waiting):
            events = self.source.after(self.seq)
            if isinstance(events, defer.Deferred):
                self._waiting = True
                events.addCallbacks(self._came, self._failed)
                return
            if not events:
                return
            self._send(events)

    def _came(self, events):
        self._waiting = False
        # They are sent although the client may be slow by now: it is one page.
        if events and not self.ended:
            self._send(events)
            self.more()

    def _failed(self, why):
        # The next look tries again.
        self._waiting = False
        self.log.failure("Can't read events for a client", why)

    def _send(self, events):
        self.seq = events[-1][0]
        self.request.write(b"".join(text for _, text in events))

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        # Not from inside the transport's own call: what we write may pause us again.
        self.source.jobs.reactor.callLater(0, self.more)

    def stopProducing(self):
        self._gone(None)

    def finish(self):
        """
        End the stream: the server stops, the client may come back.
        """
        if not self.ended:
            self.request.unregisterProducer()
            self.request.finish()

    def _gone(self, _):
        self.ended = True
        self.source.remove(self)
        if self._heart.running:
            self._heart.stop()


class Events(Page):
    """
    C{GET /events}.
    """

    @defer.inlineCallbacks
    def render_GET(self, request):
        source = self.jobs.events
        seq = request.getHeader(b"Last-Event-ID")
        if seq is None:
            seq = yield self.jobs.database.read(newest)
        else:
            given = Parameters({"Last-Event-ID": seq.strip()})
            seq = given.integer("Last-Event-ID", -(10**18), 10**18)
        if request.gone:
            return NOT_DONE_YET
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        if request.method == b"HEAD":
            request.write(b"")
            request.finish()
        elif not source.running:
            request.write(b"retry: 2000\n\n")
            request.finish()
        else:
            EventStream(request, source, seq, self.jobs.settings.heartbeat).start()
        return NOT_DONE_YET
