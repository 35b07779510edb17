"""
Stages change under load, and no request notices.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.routing import Stage
from bridge.state.store import Store
from tests.contract.servers import Server, Target, start

FLIPS = 1000 if os.environ.get("BGSERVER_LONG") == "1" else 12
CLIENTS = 6


@pytest.fixture(params=["owned", "attached"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    policy = f"""
        listen = ["tcp:0:interface=127.0.0.1"]
        state = "sqlite:///{tmp_path}/bgserver.db"

        [legacy]
        app = "legacy_twisted.server:make_service"

        [modern]
        app = "modern_fastapi.app:create_app"

        [[route]]
        match = "POST /log"

        [[route]]
        match = "GET /tasks"
    """
    started = start(Target("flips", "legacy", request.param), tmp_path, {}, policy=policy)
    try:
        yield started.listening()
        assert 0 == started.stop() or request.param == "attached", started.said()
    finally:
        started.kill()


class _Client(threading.Thread):
    """
    Posts numbered messages on one kept connection, and keeps every answer that isn't 202.
    """

    def __init__(self, address: tuple[str, int], numbers: Iterator[int], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address, self.numbers, self.over = address, numbers, over
        self.sent: list[int] = []
        self.wrong: list[object] = []
        self.servers: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        while not self.over.is_set():
            number = next(self.numbers)
            self.sent.append(number)
            try:
                connection.request("POST", f"/log?message=message-{number}")
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append((number, repr(error)))
                connection.close()
                continue
            legacy = "Twisted" in (answer.getheader("Server") or "")
            self.servers["legacy" if legacy else "modern"] += 1
            if answer.status != 202:
                self.wrong.append((number, answer.status, body))
        connection.close()


def test_no_request_notices_a_change_of_stage(server: Server, tmp_path: Path):
    """
    Flipping a route between the stacks under load on kept connections fails no request, and
    each one takes effect exactly once.

    Seen to fail where following the state also closed the open connections.
    """
    store = Store.open(f"sqlite:///{tmp_path}/bgserver.db")
    over = threading.Event()
    numbers = itertools.count()
    clients = [_Client(server.address, numbers, over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()

    for flip in range(FLIPS):
        stage = Stage.MODERN if flip % 2 == 0 else Stage.LEGACY
        store.set_stage("POST /log", stage, who="test", why=f"flip {flip}", forced=True)
        _until_answered_by(stage.value, clients)
    over.set()
    for client in clients:
        client.join()
    store.close()

    sent = sorted(number for client in clients for number in client.sent)
    assert [] == [wrong for client in clients for wrong in client.wrong]
    answered = sum((client.servers for client in clients), Counter())
    assert answered["legacy"] > 0 and answered["modern"] > 0, answered
    assert sent == _logged(server, tmp_path, len(sent))


def _until_answered_by(side: str, clients: list[_Client]) -> None:
    """
    Wait until the server has followed the flip, and says so in an answer.
    """
    before = sum(client.servers[side] for client in clients)
    deadline = time.monotonic() + 30
    while sum(client.servers[side] for client in clients) < before + CLIENTS:
        assert time.monotonic() < deadline, (side, [(client.servers, client.wrong[:3]) for client in clients])
        time.sleep(0.01)


def _logged(server: Server, folder: Path, wanted: int) -> list[int]:
    """
    The numbers in app.log, once all of them are there; the tasks run after the answers.
    """
    path = folder / "data" / "app.log"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= wanted:
            break
        time.sleep(0.1)
    return sorted(int(json.loads(line)["message"].partition("-")[2]) for line in path.read_text().splitlines())
