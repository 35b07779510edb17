"""
The event stream: in order, without gaps, resumable, and a number for each reader however slowly it reads.
"""

from __future__ import annotations

import json
import re

import pytest
from twisted.internet import defer

from legacy_twisted import eventpages, tasks
from legacy_twisted.eventpages import EventSource, EventStream


class Reader:
    """
    A request as a stream sees it: it counts what it is given, and may be too slow to take it.
    """

    def __init__(self) -> None:
        self.written = []
        self.finished = False
        self.producer = None
        self.patience = None
        self._notify = defer.Deferred()

    def notifyFinish(self):
        return self._notify

    def registerProducer(self, producer, streaming):
        assert streaming
        self.producer = producer

    def unregisterProducer(self):
        self.producer = None

    def write(self, data):
        self.written.append(data)
        if self.patience is not None and len(self.written) > self.patience:
            self.producer.pauseProducing()

    def finish(self):
        self.finished = True
        self._notify.callback(None)

    def numbers(self):
        return [int(n) for n in re.findall(rb"^id: (\d+)$", b"".join(self.written), re.M)]


@pytest.fixture
def source(jobs):
    jobs.events = EventSource(jobs)
    jobs.events.startService()
    yield jobs.events
    jobs.events.stopService()


def stream(source, seq=0, patience=None):
    reader = Reader()
    reader.patience = patience
    EventStream(reader, source, seq, 15.0).start()
    return reader


def happen(jobs, count):
    def many(connection):
        for _ in range(count):
            tasks.insert(connection, "log.write", {})

    jobs.database.writeNow(many)


def test_everybody_gets_everything_in_order(jobs, clock, source):
    """
    What was there, what comes, and what comes while one is catching up: once, in the order of the commits.
    """
    happen(jobs, 450)
    readers = [stream(source), stream(source, seq=440)]

    happen(jobs, 50)
    clock.advance(eventpages.POLL)

    assert list(range(1, 501)) == readers[0].numbers()
    assert list(range(441, 501)) == readers[1].numbers()


def test_at_once_for_what_is_done_here(jobs, clock, source):
    """
    Work of this process is shown without waiting for the next look, and what comes together in one write.
    """
    reader = stream(source)
    for _ in range(3):
        happen(jobs, 1)
        jobs.work()

    clock.advance(eventpages.GATHER)

    assert [1, 2, 3] == reader.numbers()
    assert 2 == len(reader.written)


def test_slow_readers_cost_a_number(jobs, clock, source):
    """
    A reader that doesn't read gets one page and then nothing, is not buffered for, and loses nothing when it reads
    again, though memory has long forgotten.

    Seen to fail with a stream that ignores pauseProducing: all events are written to it.
    """
    slow, fast = stream(source, patience=1), stream(source)
    for _ in range(30):
        happen(jobs, 300)
        clock.advance(eventpages.POLL)

    before = slow.numbers()
    assert len(before) <= eventpages.PAGE
    assert len(source.numbers) <= 2 * eventpages.REMEMBERED
    slow.patience = None
    slow.producer.resumeProducing()
    clock.advance(0)

    assert list(range(1, 9001)) == fast.numbers() == slow.numbers()


def test_gaps_in_the_numbers(jobs, clock, source):
    """
    A number that a transaction gave back leaves a gap that nobody waits in.
    """
    happen(jobs, 3)
    jobs.sql("DELETE FROM events WHERE seq = 2")
    reader = stream(source)

    happen(jobs, 1)
    clock.advance(eventpages.POLL)

    assert [1, 3, 4] == reader.numbers()


def test_one_query_for_all(jobs, clock, source, monkeypatch):
    """
    A thousand readers that are up to date make one query, not a thousand.
    """
    readers = [stream(source) for _ in range(1000)]
    queries = []
    read = jobs.database.read
    monkeypatch.setattr(jobs.database, "read", lambda *args: queries.append(args) or read(*args))

    happen(jobs, 10)
    clock.advance(eventpages.POLL)

    assert 2 >= len(queries)
    assert all(list(range(1, 11)) == reader.numbers() for reader in readers)


def test_nobody_listens_nothing_is_read(jobs, clock, source):
    """
    Without readers the source doesn't look, and a reader that comes later finds no gap.
    """
    first = stream(source)
    happen(jobs, 1)
    clock.advance(eventpages.POLL)
    first.finish()
    happen(jobs, 5)

    assert [] == clock.getDelayedCalls()
    later = stream(source, seq=1)
    assert [2, 3, 4, 5, 6] == later.numbers()


def test_between_two_looks(jobs, clock, source, monkeypatch):
    """
    An event that is committed after the reader has looked, and before the source looks for the first time, is brought.

    Seen to fail when the source only tells of what comes after its first look.
    """
    read = jobs.database.read

    def late(interaction, *args):
        if interaction is eventpages.newest:
            happen(jobs, 1)
        return read(interaction, *args)

    monkeypatch.setattr(jobs.database, "read", late)
    monkeypatch.setattr(source, "add", lambda listener: source.listeners.add(listener))
    reader = stream(source)
    assert [] == reader.numbers()

    source.look()

    assert [1] == reader.numbers()


def test_keep_alive(jobs, clock, source):
    """
    A comment now and then; not to one that doesn't read.
    """
    reader, slow = stream(source), stream(source, patience=0)

    clock.pump([15.0, 15.0])

    assert 2 == reader.written.count(b": keep-alive\n\n")
    assert 0 == slow.written.count(b": keep-alive\n\n")


def test_a_reader_that_goes(jobs, clock, source):
    """
    Its stream ends with it: no timer, no listener.
    """
    reader = stream(source)

    reader._notify.errback(ConnectionError("gone"))
    happen(jobs, 1)
    clock.advance(1)

    assert set() == source.listeners
    assert [] == reader.numbers()
    assert [] == clock.getDelayedCalls()


def test_the_server_stops(jobs, clock, source):
    """
    Streams are ended, so that nobody waits for them; the client comes back by itself.
    """
    reader = stream(source)

    source.stopService()

    assert reader.finished
    assert [] == clock.getDelayedCalls()


def test_the_database_is_away(jobs, clock, source):
    """
    An error ends neither the source nor the streams: the next look goes on where they were.
    """
    reader = stream(source)
    happen(jobs, 2)
    jobs.database.failing = OSError("away")
    clock.pump([eventpages.POLL] * 3)

    jobs.database.failing = None
    clock.advance(eventpages.POLL)

    assert [1, 2] == reader.numbers()


def test_what_an_event_says(jobs, clock, source):
    """
    One event: its number, its kind, and the task as JSON on one line.
    """
    happen(jobs, 1)
    reader = stream(source)

    text = reader.written[1].decode()
    found = re.fullmatch(r"id: 1\nevent: task\ndata: (.*)\n\n", text)
    assert ["id", "name", "status", "attempts", "at"] == list(json.loads(found.group(1)))
