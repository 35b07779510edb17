"""
The stage `observe`: modern's dry run beside the legacy loop that owns the work, on the example as it is served.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.servers import ROOT, Server, environment, script
from tests.contract.wire import ask

pytestmark = pytest.mark.slow

POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
admin = "tcp:0:interface=127.0.0.1"
state = "sqlite:///{folder}/bgserver.db"

[legacy]
app = "legacy_twisted.server:make_service"

[modern]
app = "{modern}"
"""
LOOP = """
[[loop]]
name = "{name}"
legacy = "service:{name}"
modern = "{modern}"
stage = "{stage}"
"""
OPERATORS = re.compile(r"Operators on (http://127\.0\.0\.1:[0-9]+)")
SOUND = "modern_fastapi.app:create_app"
LOOPS = ("consumer", "rescue", "cache_refresh", "cleanup", "daily_report")
FAULTY = "tests.integration.rehearsing:create_app"


@attrs.define
class Running:
    """
    One bgserver with the example, and its operator.
    """

    server: Server
    folder: Path

    @property
    def operators(self) -> str:
        while (found := OPERATORS.search(self.server.said())) is None:
            assert self.server.process.poll() is None, self.server.last_words()
            time.sleep(0.02)
        return found[1]

    def bgctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        run = [sys.executable, "-c", "from bridge.cli import main; main()"]
        command = [*run, "--config", str(self.folder / "bgserver.toml"), "--admin", self.operators, *words]
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)

    def loop(self, name: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.operators}/api/loop?name={name}", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def until(self, name: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 40.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not holds(found := self.loop(name)):
            assert time.monotonic() < deadline, (found, self.server.last_words())
            time.sleep(0.2)
        return found

    def all_judged(self, name: str) -> dict[str, Any]:
        """
        The loop, once each tick that it has committed by now is counted, and one at least.
        """
        [(ticks,)] = self.sql("SELECT count(*) FROM ticks WHERE loop = ?", name)
        return self.until(name, lambda row: sum(counts(row)) >= max(1, ticks))

    def post_and_settle(self, count: int) -> None:
        """
        Have that many tasks done.
        """
        for _ in range(count):
            assert 202 == ask(self.server.address, "POST", "/log?message=seen").status
        while self.sql("SELECT 1 FROM tasks WHERE status <> 'SUCCESS'"):
            time.sleep(0.05)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "data" / "jobs.db", timeout=30, isolation_level=None)) as database:
            return database.execute(statement, values).fetchall()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """
    Starts one bgserver with these loops, each at its stage.
    """
    running: list[Server] = []

    def run(loops: dict[str, str], modern: str = SOUND, fault: str = "") -> Running:
        text = POLICY.format(folder=tmp_path, modern=modern)
        text += "".join(
            LOOP.format(name=name, modern="silent" if fault == "silent" else name, stage=stage)
            for name, stage in loops.items()
        )
        (tmp_path / "bgserver.toml").write_text(text, "utf-8")
        env = environment(JOBS_DATA=str(tmp_path / "data"), REHEARSING=fault)
        command = [*script("twistd"), "--pidfile=", "-n", "bgserver", "--config", str(tmp_path / "bgserver.toml")]
        log = tmp_path / f"server-{len(running)}.log"
        server = Server.start(command, ROOT, env, log).listening()
        running.append(server)
        return Running(server, tmp_path)

    yield run
    for server in running:
        server.kill()


def counts(row: dict[str, Any]) -> tuple[int, int, int]:
    seen = row["observed"]
    return seen["same"], seen["different"], seen["missing"]


def test_the_examples_loops_are_observed_and_found_the_same(serve: Callable[..., Running]) -> None:
    """
    Beside legacy's loops modern's dry runs say what was done indeed, and modern writes nothing meanwhile.

    Seen to fail with another order in modern's claim, another count in its cache, and other rows in its cleanup.
    """
    running = serve(dict.fromkeys(LOOPS, "observe"))
    running.post_and_settle(5)
    # What moves between a dry run's look and its owner's write differs: from here on nothing does.
    before = {name: running.all_judged(name)["observed"] for name in ("cache_refresh", "cleanup")}
    before = {name: running.loop(name)["observed"] for name in LOOPS}
    running.sql("UPDATE tasks SET expires_at = '2026-01-01T00:00:00.000000Z' WHERE name = 'log.write'")

    while running.sql("SELECT id FROM tasks WHERE name = 'log.write'"):
        assert running.server.process.poll() is None
        time.sleep(0.2)
    for name in ("cache_refresh", "cleanup"):
        found = running.all_judged(name)
        assert (before[name]["different"], before[name]["missing"]) == counts(found)[1:], found
        assert ("legacy", "observe", None) == (found["owner"], found["stage"], found["observed"]["error"])
    claims = running.until("consumer", lambda row: row["observed"]["same"] > 0)
    assert 0 == claims["observed"]["missing"], claims
    assert {"legacy"} == {owner.partition(":")[0] for (owner,) in running.sql("SELECT owner FROM ticks")}
    assert 0 == running.server.stop(), running.server.last_words()


def test_a_daily_report_is_rehearsed_by_its_own_clock(serve: Callable[..., Running]) -> None:
    """
    The midnight that was missed is made up at start by legacy, and modern would have made up the same one.
    """
    first = serve({"daily_report": "legacy"})
    first.server.stop()
    first.sql("INSERT INTO users VALUES ('1', 'a@b.c', 'a@b.c', 'A', '2026-01-01T00:00:00.000000Z')")

    running = serve({"daily_report": "observe"})

    found = running.until("daily_report", lambda row: row["observed"]["same"] == 1)
    assert (1, 0, 0) == counts(found)


def test_a_wrong_figure_is_shown_with_both_sides(serve: Callable[..., Running]) -> None:
    """
    A difference is counted, and `bgctl loops NAME` shows the tick as either side tells it.
    """
    running = serve({"cache_refresh": "observe"}, FAULTY, "miscounts")

    found = running.until("cache_refresh", lambda row: row["observed"]["different"] >= 1)
    shown = running.bgctl("loops", "cache_refresh").stdout

    assert 0 == found["observed"]["same"]
    assert 'modern: row cache:tasks {"PENDING": 99}' in shown
    assert "legacy: row cache:tasks" in shown


def test_a_dry_run_that_writes_is_refused_and_reported(serve: Callable[..., Running]) -> None:
    """
    It holds no epoch and gets no write transaction: the planted write is refused, shown, and legacy goes on.

    Seen to fail with LookOnly.write passed through, and the fence's comparison taken out.
    """
    running = serve({"cache_refresh": "observe"}, FAULTY, "writes")

    running.until("cache_refresh", lambda row: "wanted to write" in (row["observed"].get("error") or ""))

    assert "a dry run wanted to write" in running.bgctl("loops").stdout
    assert "a dry run wanted to write" in running.server.said()
    assert running.sql("SELECT key FROM ticks WHERE owner LIKE 'legacy%'")


def test_a_dry_run_that_hangs_does_not_stop_its_owner(serve: Callable[..., Running]) -> None:
    """
    Legacy waits once, for half a second at most, and from then on not at all; its ticks wait for their pairs in sight.
    """
    running = serve({"cache_refresh": "observe"}, FAULTY, "hangs")

    def ticks() -> int:
        return len(running.sql("SELECT key FROM ticks WHERE loop = 'cache_refresh'"))

    running.until("cache_refresh", lambda row: ticks() >= 2 and row["observed"]["waiting"]["legacy"] >= 2)

    assert 0 == running.server.stop(), running.server.last_words()


def test_a_loop_goes_through_observe_to_live_and_back(serve: Callable[..., Running]) -> None:
    """
    legacy, observe, live and back: one owner at each stage, and no dry run beside modern's own ticks.
    """
    running = serve({"cache_refresh": "legacy"})
    owners = []
    for stage in ("observe", "live", "observe", "legacy"):
        moved = running.bgctl("handoff", "cache_refresh", stage)
        assert 0 == moved.returncode, moved.stderr
        owner = "modern" if stage == "live" else "legacy"
        found = running.until(
            "cache_refresh",
            lambda row, stage=stage, owner=owner: (row["stage"], row["owner"]) == (stage, owner),
        )
        owners.append((found["stage"], found["owner"], "error" in (found.get("observed") or {})))

    assert [
        ("observe", "legacy", True),
        ("live", "modern", False),
        ("observe", "legacy", True),
        ("legacy", "legacy", False),
    ] == owners
    assert 0 == running.server.stop(), running.server.last_words()


def test_a_loop_without_a_dry_run_is_refused_by_name(serve: Callable[..., Running]) -> None:
    """
    The refusal says what it lacks and what to do; nothing has moved.
    """
    running = serve({"cache_refresh": "legacy"}, FAULTY, "silent")

    refused = running.bgctl("handoff", "cache_refresh", "observe")

    assert 1 == refused.returncode
    assert "takes no argument `observe`" in refused.stderr
    assert "docs/loops.md" in refused.stderr
    assert "legacy" == running.loop("cache_refresh")["stage"]
