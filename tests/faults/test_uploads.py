"""
Uploads that end early, and uploads that never end: no file, row or descriptor is left, and memory stays flat.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.contract.wire import Connection, ask, request_bytes
from tests.faults.load import settle_all

Serve = Callable[..., Server]
Connect = Callable[[], Database]

HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--X--\r\n"
TYPE = "Content-Type: multipart/form-data; boundary=X"
SIDES = ["legacy", "modern"]
EVERYWHERE = [
    *SIDES,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("owned-legacy", "owned-modern", "attached-legacy", "attached-modern")
    ),
]


def descriptors(server: Server) -> int:
    """
    Open descriptors, but for the database's, whose pool grows and shrinks by itself.
    """
    folder = f"/proc/{server.process.pid}/fd"
    links = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"{folder}/{name}"))
    return len([link for link in links if "jobs.db" not in link])


def resident(server: Server) -> int:
    """
    Resident bytes of the server at their peak.
    """
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+([0-9]+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(server: Server) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def until(condition: Callable[[], bool], timeout: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


BODY = HEAD + b"text\n" * 40000 + TAIL
WHOLE = request_bytes("POST", "/upload", "x", [TYPE], BODY)
START = len(WHOLE) - len(BODY)
# Where the client leaves: after so many bytes.
POINTS = {
    "in the first line": 10,
    "before the headers end": START - 1,
    "after the headers": START,
    "in the multipart head": START + 40,
    "before the first byte of the file": START + len(HEAD),
    "after a tenth": START + len(BODY) // 10,
    "in the middle": START + len(BODY) // 2,
    "after nine tenths": START + len(BODY) * 9 // 10,
    "in the last boundary": len(WHOLE) - len(TAIL) + 3,
    "before the last byte": len(WHOLE) - 1,
}


@pytest.mark.parametrize("name", SIDES)
def test_half_a_request_is_no_request(serve: Serve, database: Connect, tmp_path: Path, name: str) -> None:
    """
    A client that leaves in the middle of a body, of whatever kind, isn't answered: the request log says nothing of it,
    and the server's log has no error.

    Seen to fail on modern where the disconnect is answered as a body that is wrong.
    """
    server = serve(name)
    stored = database()
    json_body = request_bytes("POST", "/process", "x", ["Content-Type: application/json"], b'{"a":"' + b"b" * 1000)
    halves = (WHOLE[: START + 1000], json_body.replace(b"Content-Length: 1006", b"Content-Length: 2000"))

    for half in halves:
        connection = Connection(server.address)
        connection._socket.sendall(half)
        time.sleep(0.2)  # until it was read: nothing outside shows it
        connection.close()
    ask(server.address, "GET", "/me")
    log = tmp_path / "data" / "requests.log"
    assert until(lambda: log.exists() and "/me" in log.read_text())

    assert ["/me"] == [json.loads(line)["path"] for line in log.read_text().splitlines()]
    assert [] == stored.query("SELECT * FROM tasks")
    assert "Traceback" not in server.said()


def go_away(server: Server, point: int, *, rudely: bool = False, answered: bool = False) -> None:
    """
    Send so much of an upload and close: with a reset instead of an end, or not before the answer has come, unread.
    """
    connection = Connection(server.address)
    if rudely:
        connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection._socket.sendall(WHOLE[:point])
    if answered:
        assert select.select([connection._socket], [], [], 10)[0]
    elif point < len(WHOLE):
        time.sleep(0.05)  # until it was read: nothing outside shows it
    connection.close()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_client_that_goes_away_leaves_nothing(serve: Serve, database: Connect, tmp_path: Path, name: str) -> None:
    """
    At ten points of the upload, from the first byte of the head to the last of the body but one, politely and rudely.

    Seen to fail where the unfinished file isn't removed, and where it is removed and not closed.
    """
    server = serve(name)
    stored = database()

    def all_go_away() -> None:
        for point in POINTS.values():
            go_away(server, point)
            go_away(server, point, rudely=True)

    all_go_away()  # whatever is opened once and kept
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    time.sleep(0.5)
    before = descriptors(server)

    all_go_away()

    assert 10 == len(set(POINTS.values()))
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    assert until(lambda: descriptors(server) <= before), f"{before} descriptors became {descriptors(server)}"
    assert [] == stored.query("SELECT * FROM uploads")
    assert [] == stored.query("SELECT * FROM tasks")
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_client_that_goes_away_unanswered_leaves_all_or_nothing(
    serve: Serve, database: Connect, tmp_path: Path, name: str
) -> None:
    """
    After the last byte, with the answer on its way or there unread: an upload that has a row has a task that ends, and
    a processed file; one that has none has left nothing.
    """
    server = serve(name)
    stored = database()
    go_away(server, len(WHOLE), answered=True)
    assert until(lambda: bool(stored.query("SELECT 1 FROM tasks WHERE status = 'SUCCESS'")))
    before = descriptors(server)

    for rudely in (False, True) * 5:
        go_away(server, len(WHOLE), rudely=rudely)
        go_away(server, len(WHOLE), rudely=rudely, answered=True)
    settled = until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    settle_all(stored)
    rows = stored.query("SELECT upload_id, size, status FROM uploads JOIN tasks ON tasks.id = task_id")
    processed = {path.stem: path.stat().st_size for path in (tmp_path / "data" / "processed").iterdir()}

    assert settled
    assert 11 <= len(rows) <= 21
    assert {"SUCCESS"} == {row["status"] for row in rows}
    assert {row["upload_id"] for row in rows} == set(processed)
    assert all(size > len(BODY) - len(HEAD) - len(TAIL) for size in processed.values())
    assert [] == stored.query("SELECT id FROM tasks WHERE id NOT IN (SELECT task_id FROM uploads)")
    assert until(lambda: descriptors(server) <= before), f"{before} descriptors became {descriptors(server)}"
    assert "Traceback" not in server.said()


@pytest.mark.parametrize("name", SIDES)
def test_a_cleanup_of_everything_leaves_what_is_on_its_way(
    serve: Serve, database: Connect, tmp_path: Path, name: str
) -> None:
    """
    Whoever asks to remove what is older than no day at all gets that, but not the upload that is just coming in.

    Seen to fail where a cleanup goes by age alone: the upload ends 500, its file is gone.
    """
    server = serve(name)
    stored = database()
    uploads = tmp_path / "data" / "uploads"
    slow = Connection(server.address)
    slow._socket.sendall(WHOLE[:-100])
    assert until(lambda: any(path.stat().st_size for path in uploads.iterdir()))

    cleaning = json.loads(ask(server.address, "POST", "/cleanup?days=0").body)["task_id"]
    assert "SUCCESS" == stored.settle(cleaning)
    answer = slow.exchange(WHOLE[-100:], "POST")
    slow.close()

    assert 202 == answer.status
    assert "SUCCESS" == stored.settle(json.loads(answer.body)["task_id"])
    [row] = stored.query("SELECT result FROM tasks WHERE id = ?", cleaning)
    assert {"removed": []} == json.loads(row["result"])


def pieces(size: int) -> Iterator[bytes]:
    piece = b"word " * 13107 + b"\n"  # 64 KiB
    for _ in range(size // len(piece)):
        yield piece


def post_slowly(server: Server, size: int) -> int:
    """
    A chunked upload of `size` bytes, as long as the server reads; the status of its answer.
    """
    connection = Connection(server.address, timeout=120)
    head = f"POST /upload HTTP/1.1\r\nHost: x\r\n{TYPE}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection._socket.sendall(head.encode())
    with contextlib.suppress(OSError):  # it has answered and closed
        for piece in (HEAD, *pieces(size), TAIL, b""):
            connection._socket.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    try:
        return connection.exchange(b"", "POST").status
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDES)
def test_an_endless_upload_is_refused_with_flat_memory(serve: Serve, tmp_path: Path, name: str) -> None:
    """
    Twice the limit in chunks, so that no length gives it away.
    """
    server = serve(name, JOBS_UPLOAD_LIMIT=str(32 * 1024 * 1024))
    post_slowly(server, 1024 * 1024)
    forget_peak(server)
    before = resident(server)

    status = post_slowly(server, 64 * 1024 * 1024)

    assert 413 == status
    assert resident(server) - before < 32 * 1024 * 1024
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["legacy", "modern", "owned-legacy", "owned-modern", "attached-legacy"])
def test_a_gibibyte_is_refused_with_flat_memory(serve: Serve, tmp_path: Path, name: str) -> None:
    """
    The promise in full, at the default limit.
    """
    server = serve(name)
    post_slowly(server, 1024 * 1024)
    forget_peak(server)
    before = resident(server)

    status = post_slowly(server, 1024 * 1024 * 1024)
    grown = resident(server) - before
    print(f"{name}: {grown // 1024} KiB more at the peak of a GiB that is refused")

    assert 413 == status
    assert grown < 32 * 1024 * 1024
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDES)
def test_sixty_mebibytes_are_processed_with_flat_memory(
    serve: Serve, database: Connect, tmp_path: Path, name: str
) -> None:
    """
    Up, through the worker and down again, without ever being in memory whole.
    """
    server = serve(name)
    stored = database()
    forget_peak(server)
    before = resident(server)
    body = HEAD + b"".join(pieces(60 * 1024 * 1024)) + TAIL

    answer = ask(server.address, "POST", "/upload", timeout=60, headers=[TYPE], body=body)
    accepted = json.loads(answer.body)
    status = stored.settle(accepted["task_id"], timeout=60)
    processed = ask(server.address, "GET", f"/upload/{accepted['upload_id']}", timeout=60)
    grown = resident(server) - before
    print(f"{name}: {grown // 1024} KiB more at the peak of 60 MiB up, through the worker, and down")

    assert "SUCCESS" == status
    first, _, rest = processed.body.partition(b"\n")
    text = body[len(HEAD) : -len(TAIL)]
    assert f"# lines={text.count(10)} words={len(text.split())} bytes={len(text)}".encode() == first
    assert text.upper() == rest
    assert grown < 32 * 1024 * 1024
