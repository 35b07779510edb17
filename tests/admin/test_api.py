"""
The admin API over a real state: what it answers, what it refuses, and how fast a move counts.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from bridge.admin import Metric
from bridge.admin.api import create_admin
from bridge.compose.control import ServerControl
from bridge.compose.stages import Stages
from bridge.config import Config, parse_config
from bridge.routing import Cell, Side, Stage
from bridge.state import StateThread, Store

if TYPE_CHECKING:
    from bridge.compose.evidence import Evidence

POLICY = """
[legacy]
app = "a:b"
[modern]
app = "c:d"
[[route]]
match = "GET /export/{export_id}"
canary = { weight = 5 }
[[route]]
match = "POST /log"
[[loop]]
name = "consumer"
legacy = "service:consumer"
modern = "consumer"
"""


class Unjudged:
    """
    What the control asks of a process's evidence: the policy's own gate on the counts alone, and the way back.
    """

    rule = None

    def __init__(self, world: World) -> None:
        self.seat = self
        self.went_back: list[tuple[str, Stage, str]] = []
        world.evidence = self

    def identity(self, route: str) -> str | None:
        return None

    def health(self) -> dict[str, Any]:
        return {"problem": None, "lost": 0}

    def back(self, route: str, stage: Stage, why: str, evidence: str) -> None:
        self.went_back.append((route, stage, why))


class World:
    """
    One process: a state of its own, and a client of its admin API.
    """

    def __init__(self, folder: Path, token: str | None = None, policy: str = POLICY) -> None:
        self.path = folder / "state.db"
        self.config: Config = parse_config(f'state = "sqlite:///{self.path}"\n{policy}', "f.toml", folder)
        self.token = token
        self.metrics: list[Metric] = []
        self.evidence: Unjudged

    async def __aenter__(self) -> World:
        def again() -> Store:
            return Store.open(self.config.state, create=False, patience=0.2)

        self.store = Store.open(self.config.state, patience=0.2)
        snapshot = self.store.snapshot()
        self.table = Cell(self.config.table(snapshot.routes, snapshot.version))
        self.stages = Stages(self.config, self.table, snapshot, {}, time.time)
        self.thread = StateThread(again, self.stages.follow, every=0.02, born=self.store.database.born())
        control = ServerControl(self.stages, self.thread, cast("Evidence", Unjudged(self)))
        self.thread.start(asyncio.get_running_loop(), snapshot.version)
        app = create_admin(control, lambda: self.metrics, self.token)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001", timeout=30
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.aclose()
        await self.thread.stop()
        self.store.close()

    def stage(self, name: str) -> Stage:
        return self.table.value.route(name).stage

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 -- it comes true on another thread, which has no event for it
            await asyncio.sleep(0.005)

    def lose_the_database(self) -> None:
        self.path.rename(self.path.with_name("gone.db"))

    async def set(self, **asked: Any) -> httpx.Response:
        return await self.client.post("/api/set", json={"route": "GET /export/{export_id}", **asked})


def in_world(
    folder: Path, play: Callable[[World], Awaitable[None]], token: str | None = None, policy: str = POLICY
) -> None:
    async def run() -> None:
        async with World(folder, token, policy) as world:
            await play(world)

    asyncio.run(run())


def test_status_has_the_documented_shape(tmp_path: Path) -> None:
    """
    Programs read these keys; more may follow.
    """

    async def play(world: World) -> None:
        found = (await world.client.get("/api/status")).json()

        row = found["routes"][0]
        assert {"route", "stage", "weight", "pairs", "mismatches", "gate", "why"} <= set(row)
        assert (row["route"], row["stage"], row["weight"], row["pairs"]) == ("GET /export/{export_id}", "legacy", 0, 0)
        assert [r["route"] for r in found["routes"]] == ["GET /export/{export_id}", "POST /log", "default"]
        assert {"loop", "owner", "epoch", "stage"} <= set(found["loops"][0])

    in_world(tmp_path, play)


def test_a_forced_move_counts_when_it_is_answered(tmp_path: Path) -> None:
    """
    No request after the answer is decided by the old table, and the log has the reason.
    """

    async def play(world: World) -> None:
        answer = await world.set(stage="canary", force=True, why="walk", who="ann")

        table = world.table.value.route("GET /export/{export_id}")
        assert answer.status_code == 200
        assert (table.stage, table.weight) == (Stage.CANARY, 5.0)
        assert answer.json()["to"] == {"stage": "canary", "weight": 5}
        log = (await world.client.get("/api/audit")).json()["audit"]
        assert [(row["who"], row["why"], row["forced"]) for row in log] == [("ann", "walk", True)]

    in_world(tmp_path, play)


def test_a_move_without_evidence_is_refused(tmp_path: Path) -> None:
    """
    Forward wants passing evidence, or force and a reason.
    """

    async def play(world: World) -> None:
        bare = await world.set(stage="live")
        silent = await world.set(stage="live", force=True)

        assert [bare.status_code, silent.status_code] == [409, 409]
        assert bare.json()["error"] == "refused"
        assert "--why" in silent.json()["message"]
        assert world.stage("GET /export/{export_id}") is Stage.LEGACY

    in_world(tmp_path, play)


def test_passing_evidence_needs_no_force_and_is_kept(tmp_path: Path) -> None:
    """
    A person may go forward with passing evidence; the log says on which.
    """
    policy = POLICY + "\n[gate]\naa = 1\nseen = 0\nfloor = 0\n"

    async def play(world: World) -> None:
        world.store.set_stage("GET /export/{export_id}", Stage.SHADOW, who="ann", why="")
        world.store.add_counts("GET /export/{export_id}", "code1", {"shadow.same": 400, "shadow.aa": 5}, 1.0)

        answer = await world.set(stage="canary", weight=10)

        assert answer.status_code == 200, answer.text
        key = world.store.audit()[0].evidence
        assert key is not None
        kept = world.store.evidence(key)
        assert kept is not None
        assert '"shadow.same": 400' in kept.text
        found = (await world.client.get("/api/evidence", params={"name": "GET /export/{export_id}"})).json()
        assert (found["identity"], found["stage"]) == ("code1", "canary")

    in_world(tmp_path, play, policy=policy)


def test_another_processes_move_is_followed(tmp_path: Path) -> None:
    """
    What bgctl writes with the server's back turned counts here too.
    """

    async def play(world: World) -> None:
        world.store.set_stage("POST /log", Stage.MODERN, who="bgctl", why="")

        await world.until(lambda: world.stage("POST /log") is Stage.MODERN)

    in_world(tmp_path, play)


def test_a_rollback_counts_before_the_database_has_it(tmp_path: Path) -> None:
    """
    In the worst night the database may be what is broken: with it locked the next request goes to legacy all the
    same, and the change is left with who writes it once the lock is gone.
    """

    async def play(world: World) -> None:
        name = "GET /export/{export_id}"
        await world.set(stage="live", force=True, why="walk")
        lock = sqlite3.connect(world.path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        rolling = asyncio.create_task(world.client.post("/api/rollback", json={"route": name, "who": "ann"}))
        await world.until(lambda: world.stage(name) is Stage.LEGACY)
        assert not rolling.done()

        answer = (await rolling).json()["moved"][0]
        lock.close()

        assert answer["changed"] is True
        assert world.stage(name) is Stage.LEGACY
        assert [row[:2] for row in world.evidence.went_back] == [(name, Stage.LIVE)]

    in_world(tmp_path, play)


def test_other_news_does_not_undo_an_unrecorded_rollback(tmp_path: Path) -> None:
    """
    While it waits to be written, every new table still has it.
    """

    async def play(world: World) -> None:
        name = "GET /export/{export_id}"
        await world.set(stage="live", force=True, why="walk")
        world.stages.pin(name, Stage.LEGACY)

        world.store.set_stage("POST /log", Stage.MODERN, who="bgctl", why="")
        await world.until(lambda: world.stage("POST /log") is Stage.MODERN)

        assert world.stage(name) is Stage.LEGACY

    in_world(tmp_path, play)


def test_all_go_back_in_one_swap_but_the_retired(tmp_path: Path) -> None:
    """
    rollback --all passes over what has no legacy code any more.
    """

    async def play(world: World) -> None:
        await world.set(stage="live", force=True, why="walk")
        await world.set(route="POST /log", stage="retired", force=True, why="walk")
        await world.set(route="default", stage="modern", force=True, why="walk")

        answer = await world.client.post("/api/rollback", json={"all": True})

        assert [row["route"] for row in answer.json()["moved"]] == ["GET /export/{export_id}", "default"]
        assert world.stage("POST /log") is Stage.RETIRED
        assert world.stage("default") is Stage.LEGACY

    in_world(tmp_path, play)


@pytest.mark.parametrize("asked", [{}, {"route": "POST /log", "all": True}, {"rute": "x"}])
def test_a_rollback_says_what_it_means(tmp_path: Path, asked: dict[str, Any]) -> None:
    """
    Neither nothing nor both: nobody rolls everything back by leaving a key out.
    """

    async def play(world: World) -> None:
        answer = await world.client.post("/api/rollback", json=asked)

        assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")

    in_world(tmp_path, play)


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    """
    A slip of the keyboard gets the nearest name.
    """

    async def play(world: World) -> None:
        route = await world.client.get("/api/route", params={"name": "GET /exprt/{export_id}"})
        loop = await world.client.post("/api/handoff", json={"loop": "x", "stage": "live"})

        assert [route.status_code, loop.status_code] == [404, 404]
        assert "Did you mean 'GET /export/{export_id}'" in route.json()["message"]

    in_world(tmp_path, play)


def test_a_loop_is_shown_with_its_ticks(tmp_path: Path) -> None:
    """
    Its row, what its dry run showed, and its changes; an unknown one is a 404.
    """

    async def play(world: World) -> None:
        await world.client.post("/api/handoff", json={"loop": "consumer", "stage": "observe"})
        world.store.add_counts("loop consumer", "code", {"observe.same": 3}, 1.0)

        found = (await world.client.get("/api/loop", params={"name": "consumer"})).json()
        listed = (await world.client.get("/api/status")).json()["loops"][0]
        unknown = await world.client.get("/api/loop", params={"name": "x"})

        assert ("observe", []) == (found["stage"], found["differences"])
        assert 3 == found["observed"]["same"] == listed["observed"]["same"]
        assert ["observe"] == [row["to"]["stage"] for row in found["audit"]]
        assert 404 == unknown.status_code

    in_world(tmp_path, play)


def test_a_loop_is_handed_over(tmp_path: Path) -> None:
    """
    The same log, and the rules of loops.
    """

    async def play(world: World) -> None:
        done = await world.client.post("/api/handoff", json={"loop": "consumer", "stage": "live", "who": "ann"})
        wrong = await world.client.post("/api/handoff", json={"loop": "consumer", "stage": "handoff"})

        assert done.json()["to"]["stage"] == "live"
        assert wrong.status_code >= 400
        assert world.store.loop_stages() == {"consumer": "live"}

    in_world(tmp_path, play)


def test_differences_and_report_show_what_was_kept(tmp_path: Path) -> None:
    """
    Side by side, with the request that shows it.
    """

    async def play(world: World) -> None:
        name = "GET /export/{export_id}"
        world.store.add_counts(name, "code1", {"shadow.same": 1, "shadow.different": 2}, 1.0)
        world.store.add_fingerprints(name, "code1", [("f", "value", "$.x", 2)], 1.0)
        world.store.add_sample(name, "code1", "f", '{"curl": "curl x", "differences": []}', 1.0)
        world.store.propose(name, "$.eta", "ann", 9.0, 0.5, 2)

        found = (await world.client.get("/api/differences", params={"name": name})).json()
        report = (await world.client.get("/api/report")).json()

        assert found["differences"][0]["sample"]["curl"] == "curl x"
        assert found["proposals"][0]["rule"] == "$.eta"
        assert [d["route"] for d in report["differences"]] == [name]
        assert report["stages"] == {"legacy": 3}

    in_world(tmp_path, play)


def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    """
    Stages come with every scrape; the rest is what the process counts.
    """

    async def play(world: World) -> None:
        world.metrics = [
            Metric("bgserver_requests_total", "counter", "By\nside", (({"side": 'a"b\\'}, 3.0), ({}, 0.5))),
        ]
        answer = await world.client.get("/metrics")

        lines = answer.text.splitlines()
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'bgserver_route_stage{route="POST /log",stage="legacy"} 1' in lines
        assert 'bgserver_route_stage{route="POST /log",stage="live"} 0' in lines
        assert "# HELP bgserver_requests_total By\\nside" in lines
        assert 'bgserver_requests_total{side="a\\"b\\\\"} 3' in lines
        assert "bgserver_requests_total 0.5" in lines

    in_world(tmp_path, play)


def test_a_gone_database_refuses_a_move_forward(tmp_path: Path) -> None:
    """
    What can't be recorded isn't done, and says so.
    """

    async def play(world: World) -> None:
        world.lose_the_database()

        refused = await world.set(route="POST /log", stage="modern", force=True, why="walk")

        assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
        assert world.stage("POST /log") is Stage.LEGACY

    in_world(tmp_path, play)


def test_the_document_tells_the_truth(tmp_path: Path) -> None:
    """
    Every answer that can come is in the OpenAPI document, and FastAPI's 422 never comes.
    """

    async def play(world: World) -> None:
        document = (await world.client.get("/openapi.json")).json()

        said = document["paths"]["/api/set"]["post"]["responses"]
        assert {"200", "400", "401", "403", "404", "409", "503"} == set(said)
        assert "HTTPValidationError" not in document["components"]["schemas"]

    in_world(tmp_path, play)


def test_a_browser_sees_where_everything_stands(tmp_path: Path) -> None:
    """
    The listener's root is the board, and leads on to what can be asked; what people wrote is shown, never obeyed.

    Seen to fail where a reason was put into the page as it was.
    """

    async def play(world: World) -> None:
        moved = {"route": "POST /log", "stage": "canary", "weight": 5, "force": True, "why": "<script>try()</script>"}
        assert 200 == (await world.client.post("/api/set", json=moved)).status_code
        root = await world.client.get("/")
        page = root.text

        assert 200 == root.status_code
        assert "default-src 'none'" in root.headers["content-security-policy"]
        assert '<td class="canary">canary 5 %' in page
        assert "Routes: 2 at legacy, 1 at canary." in page
        assert "<td>consumer<td" in page
        assert "forced: &lt;script&gt;try()&lt;/script&gt;" in page
        assert "<script" not in page
        assert 'href="http://127.0.0.1:8001/docs"' in page
        assert 200 == (await world.client.get("/docs")).status_code
        assert "/" not in (await world.client.get("/openapi.json")).json()["paths"]

    in_world(tmp_path, play)


def test_a_table_that_a_request_holds_never_changes(tmp_path: Path) -> None:
    """
    A stage change while a request is in flight doesn't touch its decision.
    """

    async def play(world: World) -> None:
        class Asked:
            def subject(self, selector: object) -> bytes:
                return b""

            def dice(self) -> float:
                return 0.0

        held = world.table.value
        decision = held.decide(b"POST", b"/log", Asked())
        await world.set(route="POST /log", stage="modern", force=True, why="walk")

        assert decision.answers is Side.LEGACY
        assert held.decide(b"POST", b"/log", Asked()) is decision
        assert world.table.value.decide(b"POST", b"/log", Asked()).answers is Side.MODERN

    in_world(tmp_path, play)
