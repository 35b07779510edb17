"""
GET /events with a crowd that doesn't read: each costs a bounded amount of memory and no more however much happens,
while whoever reads gets everything.

A reader's window is made as small as the kernel lets it be, so that what it doesn't take stays with the server and not
in the kernel.
"""

from __future__ import annotations

import json
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.contract.streams import Stream
from tests.contract.wire import ask
from tests.faults.test_uploads import descriptors, until

Serve = Callable[..., Server]
Connect = Callable[[], Database]

ROUND = 1000  # events; a full transport and a full kernel take fewer
KIBIBYTE = 1024
# What a stream may hold: its request, its connection, a full transport (64 KiB) and the page that filled it (40 KiB).
PER_READER = 160 * KIBIBYTE
# What an allocator may need for itself while the rounds pass, whatever the crowd.
SLACK = 8 * 1024 * KIBIBYTE

SIDES = ["legacy", "modern"]
EVERYWHERE = [*SIDES, *(pytest.param(name, marks=pytest.mark.slow) for name in ("owned-legacy", "owned-modern"))]


def resident(server: Server) -> int:
    """
    Resident bytes of the server now.
    """
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+([0-9]+) kB", status)
    assert found is not None
    return int(found[1]) * KIBIBYTE


@contextmanager
def room_for(readers: int) -> Iterator[None]:
    """
    As many descriptors as that needs, for the test and for the servers that it starts meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = readers + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may open {hard} files here, and {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def slow_reader(address: tuple[str, int]) -> Stream:
    """
    A stream that was opened, with next to no window; nobody reads it until the test does.
    """
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(30)
    connection.connect(address)
    stream = Stream.over(connection, address)
    assert "retry: 2000" == stream.block(30)
    return stream


def number(event: str) -> int:
    found = re.match(r"id: ([0-9]+)\n", event)
    assert found is not None, event
    return int(found[1])


@attrs.define
class Reader:
    """
    Somebody who reads all the time.
    """

    stream: Stream
    numbers: list[int] = attrs.Factory(list)
    comments: int = 0
    _thread: threading.Thread | None = None

    def start(self) -> Reader:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            while True:
                block = self.stream.block(120)
                if block.startswith(":"):
                    self.comments += 1
                elif block.startswith("id: "):
                    self.numbers.append(number(block))
        except (AssertionError, OSError):
            return  # the test compares what came

    def has(self, last: int) -> bool:
        return until(lambda: bool(self.numbers) and self.numbers[-1] >= last, timeout=60)


def happen(stored: Database, count: int) -> int:
    """
    So many events in one transaction; the number of the last one.
    """
    stored.query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO events (task_id, name, status, attempts, at)"
        " SELECT '00000000-0000-4000-8000-000000000000', 'log.write', 'PENDING', 0, '2026-01-01T00:00:00.000000Z'"
        " FROM n",
        count,
    )
    return int(stored.query("SELECT MAX(seq) AS seq FROM events")[0]["seq"])


def hold(serve: Serve, database: Connect, name: str, crowd: int, rounds: int) -> str:
    """
    Hold one server to the promise with a crowd of that size, for so many rounds of events after it is full; the
    figures, for the long form to show.
    """
    server = serve(name, JOBS_HEARTBEAT="1")
    stored = database()
    happen(stored, 10)
    Stream.open(server.address).close()
    ask(server.address, "GET", "/tasks")
    fresh, open_before = resident(server), descriptors(server)

    with ExitStack() as streams:

        def kept(stream: Stream) -> Stream:
            streams.callback(stream.close)
            return stream

        slow = [kept(slow_reader(server.address)) for _ in range(crowd)]
        opened = resident(server)
        quick = Reader(kept(Stream.open(server.address))).start()
        for _ in range(3):
            assert quick.has(happen(stored, ROUND))
        full = peak = resident(server)
        for _ in range(rounds):
            assert quick.has(happen(stored, ROUND))
            peak = max(peak, resident(server))
        posted = ask(server.address, "POST", "/log?message=m", timeout=10)
        assert "SUCCESS" == stored.settle(json.loads(posted.body)["task_id"])
        late = Reader(kept(Stream.open(server.address, "Last-Event-ID: 5"))).start()
        last = happen(stored, 1)
        caught_up = quick.has(last) and late.has(last)
        beaten = quick.comments
        lives = until(lambda: quick.comments > beaten, timeout=20)
        resumed = []
        for stream in slow[:: max(1, crowd // 5)]:
            first = number(stream.event(60))
            resumed.append([first, *(number(stream.event(60)) for _ in range(last - first))])

    each = (full - fresh) / crowd
    figures = (
        f"{name}: {crowd} readers, {(opened - fresh) / crowd / KIBIBYTE:.0f} KiB each when opened,"
        f" {each / KIBIBYTE:.0f} KiB each when full, {(peak - full) / KIBIBYTE:+.0f} KiB for all during"
        f" {rounds * ROUND} more events"
    )
    assert caught_up
    assert lives
    assert list(range(11, last + 1)) == quick.numbers
    assert list(range(6, last + 1)) == late.numbers
    assert [list(range(11, last + 1))] * len(resumed) == resumed
    assert each < PER_READER + SLACK / crowd, figures
    assert peak - full < SLACK, figures
    assert until(lambda: descriptors(server) <= open_before), (open_before, descriptors(server))
    return figures


@pytest.mark.parametrize("name", EVERYWHERE)
def test_slow_readers_do_not_grow(serve: Serve, database: Connect, name: str) -> None:
    """
    Two hundred readers that don't read while thousands of events pass: memory is bounded for each and flat for all;
    who reads meanwhile gets every event and every heartbeat, who resumes skips nothing, and the slow ones, when they
    read at last, get all of it.

    Seen to fail on legacy with a `pauseProducing` that does nothing, and on modern with a queue for each client.
    """
    with room_for(200):
        hold(serve, database, name, 200, 4)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["legacy", "modern", "owned-legacy", "owned-modern"])
def test_thousands_of_slow_readers_do_not_grow(serve: Serve, database: Connect, name: str) -> None:
    """
    The promise in full: three thousand.
    """
    with room_for(3000):
        print(hold(serve, database, name, 3000, 20))
