"""
SIGTERM and Ctrl-C, under load: bounded, with status 0 where the exit is ours, and no accepted request lost.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.contract.wire import Connection, WireError, request_bytes
from tests.faults.load import Load, prove, settle_all
from tests.faults.test_start import children

Serve = Callable[..., Server]
Connect = Callable[[], Database]

SEED = int(os.environ.get("BGSERVER_SEED", "20261122"))
LONG = os.environ.get("BGSERVER_LONG") == "1"
GRACE = 4.0
"""
Seconds that a server takes to drain, if nothing else is set.
"""

NAMES = ["legacy", "modern", "owned-legacy", "owned-modern", "attached-modern"]


def expected_status(name: str, how: signal.Signals) -> set[int]:
    # A bare twistd and a bare uvicorn end by the signal, or with 0 after a Ctrl-C; the rest is ours.
    return {0} if name.startswith("owned") else {0, -how, 128 + how}


def crowd() -> float:
    """
    Seconds to forgive on a machine that has no time for us: its load beyond two processors.
    """
    return max(0.0, os.getloadavg()[0] - 2)


def lasting(group: int) -> list[str]:
    """
    The processes of a group that are there two seconds later: multiprocessing's resource tracker ends after its parent.
    """
    deadline = time.monotonic() + 2
    while (left := children(group)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


# A signal's number makes a difference to who owns the signals, not to how a side drains: twistd's owner and uvicorn's
# are asked with both, and the full count asks everybody.
@pytest.mark.parametrize(
    "name, how",
    [
        pytest.param(
            name,
            how,
            id=f"{name}-{how.name}",
            marks=[
                *([] if (name, how) == ("owned-modern", signal.SIGTERM) else [pytest.mark.slow]),
                *([pytest.mark.long] if how is signal.SIGINT and name in ("legacy", "modern", "owned-legacy") else []),
            ],
        )
        for name in NAMES
        for how in (signal.SIGTERM, signal.SIGINT)
    ],
)
def test_a_stop_under_load_loses_nothing(
    serve: Serve, database: Connect, tmp_path: Path, name: str, how: signal.Signals
) -> None:
    """
    It ends within 5 seconds, leaves no process, breaks no answer off, and what it accepted is done by its successor.
    """
    server = serve(name)
    stored = database()
    with Load(lambda: [server.address], random.Random(1), pause=0.005) as load:
        load.wait_for(50)
        begun = time.monotonic()
        status = server.stop(how)
        took = time.monotonic() - begun
    left = lasting(server.process.pid)
    serve("legacy")
    settle_all(stored)

    assert status in expected_status(name, how), server.last_words()
    assert took < 5.0 + crowd()
    assert [] == left
    assert [] == load.broken
    said = server.said()
    assert said.count("RuntimeError: unstable") == said.count("Traceback"), server.last_words()
    prove(stored, tmp_path / "data", load.accepted)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "owned-legacy" else pytest.mark.slow) for name in NAMES]
)
def test_what_was_begun_is_ended(serve: Serve, database: Connect, tmp_path: Path, name: str) -> None:
    """
    A body that is half sent when the stop comes is read to its end and answered; who comes now is turned away.

    On a connection that was kept open, that is a 503 with Retry-After, or the end of the connection.
    """
    server = serve(name)
    stored = database()
    body = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhello\r\n--X--\r\n'
    headers = ["Content-Type: multipart/form-data; boundary=X", f"Content-Length: {len(body)}"]
    whole = request_bytes("POST", "/upload", "x", headers, body, keep=True)
    idle = Connection(server.address)
    idle.exchange(request_bytes("GET", "/", "x", keep=True), "GET", keep=True)
    slow = Connection(server.address)
    slow._socket.sendall(whole[: -len(body) // 2])
    time.sleep(0.3)  # until the head has been read: nothing outside shows it

    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    try:
        turned = idle.exchange(request_bytes("GET", "/healthz", "x"), "GET")
    except (OSError, WireError):
        turned = None
    try:
        answer = slow.exchange(whole[-len(body) // 2 :], "POST", keep=True)
    except (OSError, WireError):
        answer = None
    status = server.process.wait(10)
    idle.close()
    slow.close()

    # A bare twistd closes what was not wholly received: then nothing of it may be left.
    assert answer is not None or name == "legacy"
    assert answer is None or 202 == answer.status
    assert status in expected_status(name, signal.SIGTERM)
    if turned is not None:
        assert (503, "5") == (turned.status, turned.one("retry-after"))
        assert b'{"error":"draining","message":"the server is stopping"}' == turned.body
    with pytest.raises(OSError):
        socket.create_connection(server.address, timeout=1)
    serve("modern")
    settle_all(stored)
    assert (["SUCCESS"] if answer else []) == [row["status"] for row in stored.query("SELECT status FROM tasks")]
    assert [] == list((tmp_path / "data" / "uploads").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("mode", ["owned", "attached"])
def test_strikes_at_random_moments_lose_nothing(serve: Serve, database: Connect, tmp_path: Path, mode: str) -> None:
    """
    SIGTERM at any moment under load: two hundred times in the long form, three times here, on one database. Each time
    it ends within the grace and a second, with the status of its mode, and leaves nothing behind.
    """
    dice = random.Random(SEED)
    accepted: list[str] = []
    wrong: list[str] = []
    for strike in range(200 if LONG else 3):
        server = serve(f"{mode}-{dice.choice(('legacy', 'modern'))}")
        with Load(lambda each=server: [each.address], dice, pause=0.005) as load:
            load.wait_for(dice.randrange(1, 60))
            begun = time.monotonic()
            status = server.stop(signal.SIGTERM)
            took = time.monotonic() - begun
        accepted += load.accepted
        if status not in expected_status(mode, signal.SIGTERM) or took > GRACE + 1 + crowd() or load.broken:
            wrong.append(f"{strike}: status {status} after {took:.1f} s, {load.broken}, {server.last_words()}")
        wrong += [f"{strike}: {each} is left" for each in lasting(server.process.pid)]
    stored = database()
    serve("legacy")
    settle_all(stored)

    assert [] == wrong
    prove(stored, tmp_path / "data", accepted)
