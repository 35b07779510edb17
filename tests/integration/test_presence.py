"""
A running server says in the state that it is there, and whether the stages count on it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.compose.presence import Present
from bridge.compose.stages import Stages
from bridge.config import parse_config
from bridge.routing import Cell
from bridge.state import Snapshot, StateThread, Store
from tests.contract.servers import Target, environment, start

POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
[legacy]
app = "legacy_twisted.server:make_service"
[modern]
app = "modern_fastapi.app:create_app"
[[route]]
match = "GET /"
stage = "modern"
"""


def bgctl(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:

    command = [sys.executable, "-c", "from bridge.cli import main; main()", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)


def servers(folder: Path) -> list[dict[str, Any]]:
    """
    Who is there, once somebody is: the first sign of life doesn't hold the start up.
    """
    for _ in range(40):
        found: list[dict[str, Any]] = json.loads(bgctl(folder, "status", "--json").stdout)["servers"]
        if found:
            return found
    raise AssertionError("nobody gave a sign of life")


def test_a_forced_server_is_seen_without_an_admin_listener(tmp_path: Path) -> None:
    """
    From its start on, after a reload that takes the switch away, after a stop, and after a kill: each is told as it is.

    Seen to fail with the policy at hand alone: the variable is in nobody's file.
    """
    forced = {"BGSERVER_FORCE_LEGACY": "1"}
    server = start(Target("presence", "legacy", "owned"), tmp_path, forced, policy=POLICY).listening()
    try:
        servers(tmp_path)
        running = bgctl(tmp_path, "status").stdout
        assert 0 == server.stop(), server.said()
        stopped = bgctl(tmp_path, "status").stdout
        killed = start(Target("presence", "legacy", "owned"), tmp_path, {}, policy=POLICY).listening()
        plain = servers(tmp_path)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        left = servers(tmp_path)
    finally:
        server.kill()

    assert running.startswith("FORCE_LEGACY on ")
    assert "Overridden there: GET / (modern)." in running
    assert "FORCE_LEGACY" not in stopped
    assert "No server is known to run on this state." in stopped
    assert [False] == [row["force_legacy"] for row in plain]
    assert [row["name"] for row in plain] == [row["name"] for row in left]


def test_a_reload_that_sets_the_switch_is_told_at_once(tmp_path: Path) -> None:
    """
    Not at the next sign of life; and a server that leaves takes its row along.

    Seen to fail where only the clock made it say something.
    """
    state = f"sqlite:///{tmp_path / 'state.db'}"
    config = parse_config(POLICY, "f.toml", tmp_path)
    forced = parse_config("force_legacy = true\n" + POLICY, "f.toml", tmp_path)

    async def play() -> None:
        store = Store.open(state)
        snapshot = Snapshot(0, {}, {})
        stages = Stages(config, Cell(config.table({})), snapshot, {}, time.time)
        thread = StateThread(lambda: Store.open(state), lambda changed: None)
        present = Present("web-1", thread, stages, lambda: 7.0, every=3600.0)
        stages.changed = present.follow
        thread.start(asyncio.get_running_loop())
        running = asyncio.create_task(present.run())

        async def until(flag: bool) -> None:
            while [flag] != [each.force_legacy for each in store.servers()]:  # noqa: ASYNC110 -- another thread's
                await asyncio.sleep(0.01)

        await asyncio.wait_for(until(False), 20)
        stages.reload(forced)
        await asyncio.wait_for(until(True), 20)
        running.cancel()
        present.leave()
        await thread.stop()
        assert [] == store.servers()
        store.close()

    asyncio.run(play())


def test_a_state_that_is_gone_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Nobody hears of it then, the server goes on, and says it once the state is back.
    """
    path = tmp_path / "state.db"
    config = parse_config(POLICY, "f.toml", tmp_path)
    Store.open(f"sqlite:///{path}").close()

    async def play() -> None:
        stages = Stages(config, Cell(config.table({})), Snapshot(0, {}, {}), {}, time.time)
        thread = StateThread(lambda: Store.open(f"sqlite:///{path}", create=False), lambda changed: None, every=0.02)
        path.rename(tmp_path / "away.db")
        thread.start(asyncio.get_running_loop())
        running = asyncio.create_task(Present("web-1", thread, stages, lambda: 7.0, every=0.02).run())
        await asyncio.sleep(0.2)
        (tmp_path / "away.db").rename(path)
        store = Store.open(f"sqlite:///{path}")
        while not store.servers():
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        await thread.stop()
        store.close()

    asyncio.run(play())
