"""
The operator's hand on a running server: what was asked for counts when the answer comes, whatever the state database
does meanwhile.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from bridge.routing import Stage
from bridge.state.store import Store
from tests.contract.servers import Server, Target, start

POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
admin = "tcp:0:interface=127.0.0.1"
state = "sqlite:///{folder}/bgserver.db"

[legacy]
app = "legacy_twisted.server:make_service"

[modern]
app = "modern_fastapi.app:create_app"

[[route]]
match = "GET /"
stage = "{stage}"
"""
OPERATORS = re.compile(r"Operators on http://127\.0\.0\.1:([0-9]+)")


@attrs.define
class _Running:
    server: Server
    admin: tuple[str, int]
    folder: Path

    def ask(
        self, method: str, path: str, body: Any = None, admin: bool = True
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        address = self.admin if admin else self.server.address
        with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if admin else text, answer.headers

    def side(self) -> str:
        """
        Who answers `GET /` now: Twisted names itself, the modern side adds no Server header.
        """
        return "legacy" if "Twisted" in (self.ask("GET", "/", admin=False)[2]["Server"] or "") else "modern"

    def policy(self, text: str) -> None:
        (self.folder / "bgserver.toml").write_text(text)
        self.server.process.send_signal(signal.SIGHUP)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline, f"{what}:\n{self.server.said()}"
            time.sleep(0.02)


def _start(folder: Path, stage: str) -> _Running:
    policy = POLICY.format(folder=folder, stage=stage)
    server = start(Target("control", "legacy", "owned"), folder, {}, policy=policy).listening()
    running = _Running(server, ("", 0), folder)
    running.until(lambda: OPERATORS.search(server.said()) is not None, "no admin listener")
    found = OPERATORS.search(server.said())
    assert found is not None
    running.admin = ("127.0.0.1", int(found[1]))
    return running


@pytest.fixture
def modern(tmp_path: Path) -> Iterator[_Running]:
    running = _start(tmp_path, "modern")
    try:
        yield running
        assert 0 == running.server.stop(), running.server.said()
    finally:
        running.server.kill()


def _rollback(running: _Running) -> tuple[int, Any]:
    asked = {"route": "GET /", "who": "test", "why": "worst night"}
    return running.ask("POST", "/api/rollback", asked)[:2]


def test_a_rollback_counts_when_it_is_answered(modern: _Running):
    """
    The next request after the answer is legacy's: nobody waits for a poll of the state.
    """
    assert "modern" == modern.side()

    status, answer = _rollback(modern)

    assert "legacy" == modern.side()
    assert (200, True) == (status, answer["moved"][0]["changed"])


def test_a_rollback_needs_no_database(modern: _Running):
    """
    With the state locked by somebody else legacy answers all the same, and the state hears of it later.

    Seen to fail where the rollback was written before it was swapped in.
    """
    url = f"sqlite:///{modern.folder}/bgserver.db"
    with closing(sqlite3.connect(modern.folder / "bgserver.db", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        with closing(http.client.HTTPConnection(*modern.admin, timeout=60)) as connection:
            body = json.dumps({"route": "GET /", "who": "test", "why": "worst night"})
            connection.request("POST", "/api/rollback", body, {"Content-Type": "application/json"})
            modern.until(lambda: modern.side() == "legacy", "legacy doesn't answer while the state is locked")
            assert [] == select.select([connection.sock], [], [], 0)[0], "legacy answered only after the database did"
            lock.execute("ROLLBACK")
            assert 200 == connection.getresponse().status

    with closing(Store.open(url)) as store:
        modern.until(lambda: store.stages().get("GET /", (None,))[0] is Stage.LEGACY, "the state never heard")
    assert "legacy" == modern.side()


def test_the_code_that_runs_is_known_without_traffic(modern: _Running):
    """
    Who asks the state alone hears nothing of the former code's evidence, from the first second on.

    Seen to fail where a code is known only by what was counted of it.
    """
    with closing(Store.open(f"sqlite:///{modern.folder}/bgserver.db")) as store:
        modern.until(lambda: store.identity("GET /") is not None, "the code isn't known")

        assert {} == store.counted("GET /")["GET /"][0].counts


def test_a_second_process_follows(modern: _Running, tmp_path_factory: pytest.TempPathFactory):
    """
    What was moved in one process is moved in every other one on the same state.
    """
    other_folder = tmp_path_factory.mktemp("other")
    os.symlink(modern.folder / "bgserver.db", other_folder / "bgserver.db")
    policy = POLICY.format(folder=modern.folder, stage="modern")
    server = start(Target("other", "legacy", "owned"), other_folder, {}, policy=policy).listening()
    try:
        other = _Running(server, ("", 0), other_folder)
        assert "modern" == other.side()

        _rollback(modern)

        other.until(lambda: other.side() == "legacy", "the other process doesn't follow")
    finally:
        server.kill()


def test_sighup_reads_the_policy_again(modern: _Running):
    """
    A changed policy counts without a restart, for what the state doesn't say otherwise.
    """
    modern.policy(POLICY.format(folder=modern.folder, stage="legacy"))

    modern.until(lambda: modern.side() == "legacy", "the policy was not read again")


EARLY = """
import os
import signal
from pathlib import Path

from twisted.application.service import Service

from legacy_twisted.server import make_service as example

POLICY = Path(__file__).with_name("bgserver.toml")


class Changed(Service):
    def startService(self):
        POLICY.write_text(POLICY.read_text().replace('stage = "modern"', 'stage = "legacy"'))
        os.kill(os.getpid(), signal.SIGHUP)


def make_service():
    service = example()
    Changed().setServiceParent(service)
    return service
"""


def test_sighup_during_the_start_waits_for_its_end(tmp_path: Path):
    """
    What is asked for before the server is up is done when it is, and ends no process. Seen to fail when the handler
    came with the last step of the start: the process was gone.
    """
    (tmp_path / "early.py").write_text(EARLY)
    policy = POLICY.format(folder=tmp_path, stage="modern").replace("legacy_twisted.server:", "early:")
    server = start(Target("control", "legacy", "owned"), tmp_path, {}, policy=policy).listening()
    running = _Running(server, ("", 0), tmp_path)
    try:
        running.until(lambda: "The policy was read again" in server.said(), "nothing is said")

        assert "legacy" == running.side()
    finally:
        server.kill()


HANGING = """
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Hanging(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.write(b"wait")
        return NOT_DONE_YET


def make_service():
    return Hanging()
"""


def test_sighup_brings_another_grace(tmp_path: Path):
    """
    The next stop has the patience that the file asks for now: a request that never ends is cut after a moment, and not
    after two minutes.

    Seen to fail where it was read and not handed on.
    """
    (tmp_path / "hanging.py").write_text(HANGING)
    policy = POLICY.format(folder=tmp_path, stage="legacy").replace("legacy_twisted.server:", "hanging:")
    server = start(Target("control", "legacy", "owned"), tmp_path, {}, policy="grace = 120.0\n" + policy).listening()
    running = _Running(server, ("", 0), tmp_path)
    try:
        running.policy("grace = 0.2\n" + policy)
        running.until(lambda: "The policy was read again" in server.said(), "nothing is said")
        with closing(http.client.HTTPConnection(*server.address, timeout=30)) as connection:
            connection.request("GET", "/")
            assert b"wait" == connection.getresponse().read(4)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
    finally:
        server.kill()


def test_a_broken_policy_keeps_the_old_one(modern: _Running):
    """
    After SIGHUP with a broken file the server goes on as before, and says what is wrong where.
    """
    modern.policy("listen = [")

    modern.until(lambda: "The policy stays as it was: " in modern.server.said(), "nothing is said")
    assert "modern" == modern.side()


def test_a_sandbox_needs_a_restart(modern: _Running):
    """
    A policy that makes a route sandboxed, where the server has no sandboxes, is refused whole: its writes would never
    be compared, and nobody would know why.

    Seen to fail where it was taken: the route stood in the shadow, and each request of it was dropped.
    """
    more = '[[route]]\nmatch = "POST /log"\nstage = "shadow"\neffects = "sandboxed"\n'
    modern.policy(POLICY.format(folder=modern.folder, stage="legacy") + more)

    modern.until(lambda: "which only a restart makes" in modern.server.said(), "nothing is said")
    assert "modern" == modern.side()


def test_metrics_and_status_say_the_same(modern: _Running):
    """
    The figures for Prometheus and the status agree on where a route stands.
    """
    status = modern.ask("GET", "/api/status")[1]
    with closing(http.client.HTTPConnection(*modern.admin, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()

    assert "modern" == next(row["stage"] for row in status["routes"] if row["route"] == "GET /")
    assert 'bgserver_route_stage{route="GET /",stage="modern"} 1' in text
    assert "bgserver_loop_lag_seconds" in text
