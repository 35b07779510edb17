"""
Uploads that end early, and uploads that never end: no file, row or descriptor is left, and memory stays flat.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.contract.wire import Connection, ask, request_bytes

Serve = Callable[..., Server]
Connect = Callable[[], Database]

HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--X--\r\n"
TYPE = "Content-Type: multipart/form-data; boundary=X"
SIDES = ["legacy", "modern"]
EVERYWHERE = [
    *SIDES,
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("owned-legacy", "owned-modern", "attached-legacy")),
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


def until(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_client_that_goes_away_leaves_nothing(serve: Serve, database: Connect, tmp_path: Path, name: str) -> None:
    """
    At ten points of the upload, from the first byte of the head to the last of the body but one.
    """
    server = serve(name)
    stored = database()
    body = HEAD + b"text\n" * 40000 + TAIL
    whole = request_bytes("POST", "/upload", "x", [TYPE], body)
    points = [1, 60, len(whole) - len(body), len(whole) - len(body) + 10]
    points += [len(whole) - len(body) + len(HEAD) + cut for cut in (0, 1, 70000, 150000)]
    points += [len(whole) - len(TAIL), len(whole) - 1]

    def go_away() -> None:
        for point in points:
            connection = Connection(server.address)
            connection._socket.sendall(whole[:point])
            time.sleep(0.05)  # until it was read: nothing outside shows it
            connection.close()

    go_away()  # whatever is opened once and kept
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    time.sleep(0.5)
    before = descriptors(server)

    go_away()

    assert 10 == len(points)
    assert until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    assert until(lambda: descriptors(server) <= before), f"{before} descriptors became {descriptors(server)}"
    assert [] == stored.query("SELECT * FROM uploads")
    assert [] == stored.query("SELECT * FROM tasks")


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
@pytest.mark.parametrize("name", SIDES)
def test_a_gibibyte_is_refused_with_flat_memory(serve: Serve, tmp_path: Path, name: str) -> None:
    """
    The promise in full, at the default limit.
    """
    server = serve(name)
    post_slowly(server, 1024 * 1024)
    forget_peak(server)
    before = resident(server)

    status = post_slowly(server, 1024 * 1024 * 1024)

    assert 413 == status
    assert resident(server) - before < 32 * 1024 * 1024
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

    assert "SUCCESS" == status
    first, _, rest = processed.body.partition(b"\n")
    text = body[len(HEAD) : -len(TAIL)]
    assert f"# lines={text.count(10)} words={len(text.split())} bytes={len(text)}".encode() == first
    assert text.upper() == rest
    assert resident(server) - before < 32 * 1024 * 1024
