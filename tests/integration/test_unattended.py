"""
The example's routes move by themselves: through a real server, under replayed traffic, with the policy that ships,
every route that may is live in the end, and no person has touched one.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from bridge.parity import Redactor
from bridge.state.key import redaction_key
from tests.contract.servers import ROOT, Server, Target, start
from tests.integration.traffic import READS, WRITES, Known, Replay, Step, steps
from tests.modern.application import add, services

EXAMPLE = ROOT / "twistd_plugin" / "example.toml"
OPERATORS = re.compile(r"Operators on http://127\.0\.0\.1:([0-9]+)")
LISTEN = 'listen = ["tcp:8000:interface=127.0.0.1"]'
MANUAL = 'promote = "manual"'
# The machine is busy with other tests, and whoever awaits more often waits longer there: time says nothing here.
MOVING = """promote = "auto"
canary = { weight = 50, subject = "header:x-client-id" }
tolerate = { latency = 50.0 }"""
MODERN = 'app = "modern_fastapi.app:create_app"'
# A gate that a minute's traffic satisfies, by the same tests as the real one.
LOWERED = """
[gate]
aa = 10
p0 = 0.01
p1 = 0.2
seen = 3
floor = 1.0
"""
# The real one; only the time that a stage lasts at least is shorter.
REAL = "[gate]\nfloor = 1.0\n"
LONG = os.environ.get("BGSERVER_LONG") == "1"
# Writes that the sandboxes may be behind before the clients wait for them.
BEHIND = 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if LONG else 400)]


def policy(gate: str, modern: str = MODERN, only: Sequence[str] = (), moving: str = MOVING) -> str:
    """
    The shipped policy, moving by itself; of its routes only some, if any are named.
    """
    head, *routes = EXAMPLE.read_text("utf-8").split("[[route]]")
    routes[-1], loops = routes[-1].split("[[loop]]", 1)
    if only:
        routes = [each for each in routes if any(f'match = "{name}"\n' in each for name in only)]
    text = "[[route]]".join([head, *routes]) + "\n[[loop]]" + loops
    for old, new in (
        (LISTEN, 'listen = ["tcp:0:interface=127.0.0.1"]\nadmin = "tcp:0:interface=127.0.0.1"'),
        (MANUAL, moving),
        (MODERN, modern),
    ):
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    return text + gate


@attrs.define
class Watched:
    """
    A server, its operators' listener, and its clients.
    """

    server: Server
    admin: tuple[str, int]
    known: Known
    over: threading.Event = attrs.field(factory=threading.Event)
    failed: list[BaseException] = attrs.field(factory=list)

    def get(self, path: str) -> bytes:
        with closing(http.client.HTTPConnection(*self.admin, timeout=60)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert 200 == answer.status
            return answer.read()

    def routes(self) -> dict[str, dict[str, Any]]:
        return {row["route"]: row for row in json.loads(self.get("/api/status"))["routes"]}

    def audit(self, route: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.get("/api/route?name=" + route.replace(" ", "%20")))["audit"]
        return found

    def move(self, route: str, stage: str) -> None:
        with closing(http.client.HTTPConnection(*self.admin, timeout=60)) as connection:
            body = json.dumps({"route": route, "stage": stage})
            connection.request("POST", "/api/set", body, {"Content-Type": "application/json"})
            assert 200 == connection.getresponse().status

    def sandbox(self, figure: str) -> int:
        found = re.search(rf"^bgserver_sandbox_{figure} (\d+)$", self.get("/metrics").decode(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def replay(self, kinds: Sequence[Step], seed: int, pace: float) -> None:
        """
        One client's traffic until it is over.

        @param pace: Seconds between two requests.
        """
        client = Replay(self.server.address, self.known, random.Random(seed))
        try:
            for number, step in enumerate(steps(kinds, client)):
                if self.over.is_set():
                    break
                step()
                self.over.wait(pace)
                while (
                    kinds is WRITES
                    and number % 20 == 0
                    and self.sandbox("waiting") > BEHIND
                    and not self.over.wait(0.1)
                ):
                    pass
        except BaseException as error:
            self.failed.append(error)
        finally:
            client.close()

    def until(self, condition: Callable[[dict[str, dict[str, Any]]], bool], patience: float) -> None:
        """
        Send traffic until the routes stand as they should.
        """
        clients = [
            threading.Thread(target=self.replay, args=(WRITES, 1, 0.0)),
            threading.Thread(target=self.replay, args=(READS, 2, 0.02)),
        ]
        for client in clients:
            client.start()
        deadline = time.monotonic() + patience
        try:
            while not condition(found := self.routes()):
                assert not self.failed, self.failed
                assert time.monotonic() < deadline, json.dumps(
                    [(r["route"], r["stage"], r["pairs"], r["mismatches"], r["why"]) for r in found.values()], indent=1
                )
                time.sleep(0.5)
        finally:
            self.over.set()
            for client in clients:
                client.join()
        assert not self.failed, self.failed


def furnish(folder: Path, tasks: int) -> Known:
    """
    A back office that has been at work: tasks that wait for a day to come, a report, and files that are old.
    """
    data = folder / "data"

    async def make() -> list[str]:
        async with services(data) as made:
            return [await add(made, delay=10.0 * 365 * 86400) for _ in range(tasks)]

    planted = asyncio.run(make())
    with closing(sqlite3.connect(data / "jobs.db")) as database:
        body = {"day": "2026-11-20", "tasks": {"SUCCESS": 1}, "users": 1}
        database.execute(
            "INSERT INTO reports VALUES (?, ?, ?)", (body["day"], json.dumps(body), "2026-11-21T00:00:00.000000Z")
        )
        database.commit()
    for n in range(10):
        old = data / "exports" / f"old-{n}.csv"
        old.write_text("old")
        os.utime(old, (1e9, 1e9))
    return Known(planted)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """
    Start a server with a policy, on a furnished back office.
    """
    running: list[Watched] = []

    def started(text: str, tasks: int) -> Watched:
        known = furnish(tmp_path, tasks)
        server = start(Target("unattended", "legacy", "owned"), tmp_path, {}, policy=text).listening()
        server.listening(OPERATORS)
        admin = server.address
        watched = Watched(server.listening(), admin, known)
        running.append(watched)
        return watched

    yield started
    for watched in running:
        watched.server.kill()


def movable(routes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """
    The routes that the gate may move; what has external effects is a person's.
    """
    return [row for row in routes.values() if row["effects"] != "external" and row["route"] != "default"]


@pytest.mark.parametrize(
    "gate, tasks, patience",
    [(LOWERED, 60, 360.0), pytest.param(REAL, 300, 7000.0, marks=pytest.mark.long)],
    ids=["lowered", "real"],
)
def test_every_route_reaches_live_by_itself(
    watch: Callable[..., Watched], gate: str, tasks: int, patience: float
) -> None:
    """
    Reads, streams and sandboxed writes go from legacy over shadow and canary to live, each step by the gate and with
    its evidence; nothing was taken back on the way, and what is external stays where it was.
    """
    watched = watch(policy(gate), tasks)

    watched.until(lambda routes: {"live"} == {row["stage"] for row in movable(routes)}, patience)

    routes = watched.routes()
    moved = movable(routes)
    assert 22 == len(moved)
    for row in moved:
        log = watched.audit(row["route"])
        assert ["live", "canary", "shadow"] == [change["to"]["stage"] for change in log], row
        assert {"gate"} == {change["who"].partition("@")[0] for change in log}
        assert all(change["evidence"] is not None and not change["forced"] for change in log)
    assert {"legacy"} == {row["stage"] for row in routes.values() if row not in moved}
    assert 0 == watched.server.stop(), watched.server.last_words()


def test_a_route_with_a_fault_stays(watch: Callable[..., Watched]) -> None:
    """
    One modern handler answers otherwise: its route is rejected and never answered by modern, and the others move on.

    The test above is this one without the fault, and there the same route goes all the way.
    """
    names = ["GET /", "POST /items", "POST /log", "GET /task/{task_id}"]
    watched = watch(policy(LOWERED, 'app = "tests.integration.mutant:create_app"', names), 1)

    def over(routes: dict[str, dict[str, Any]]) -> bool:
        healthy = {routes[name]["stage"] for name in names if name != "POST /items"}
        return healthy == {"live"} and "rejected" in routes["POST /items"]["why"]

    watched.until(over, 120.0)

    # Of a stored request no header stands there as it came, but as the token that every process of this state gives it.
    redactor = Redactor(redaction_key(f"sqlite:///{watched.server.folder / 'bgserver.db'}", watched.server.folder))
    people = {redactor.token(f"person-{n}") for n in range(1000)}
    stays = watched.routes()["POST /items"]
    assert "shadow" == stays["stage"]
    assert ["shadow"] == [change["to"]["stage"] for change in watched.audit("POST /items")]
    [found] = json.loads(watched.get("/api/differences?name=POST%20/items"))["differences"]
    assert ("value", "$.name") == (found["kind"], found["path"])
    assert dict(found["sample"]["request"]["headers"])["x-client-id"] in people


def test_a_sandbox_is_there_while_it_is_wanted(watch: Callable[..., Watched], tmp_path: Path) -> None:
    """
    The policy that ships declares sandboxes, and as long as no write is in the shadow there is nothing of them: no
    file, no instance. With the first one both come, and with the last one the instances go.

    Seen to fail with sandboxes that are made at the start.
    """
    watched = watch(policy("", moving=MANUAL), 1)
    client = Replay(watched.server.address, watched.known, random.Random(1))
    client.post("POST /log", "/log?message=m")

    assert (0, False) == (watched.sandbox("seedings_total"), (tmp_path / "sandbox").exists())

    watched.move("POST /log", "shadow")
    _until(lambda: watched.sandbox("seedings_total") == 1 and watched.sandbox("ready") == 1)
    client.post("POST /log", "/log?message=m")
    _until(lambda: watched.routes()["POST /log"]["pairs"] == 1)
    assert (tmp_path / "sandbox" / "modern" / "jobs.db").exists()

    watched.move("POST /log", "legacy")
    _until(lambda: watched.sandbox("ready") == 0)
    client.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
