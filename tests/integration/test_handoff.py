"""
One loop, two stacks, two processes: it is handed over again and again while processes are killed and paused and threads
stall, and no tick is committed twice.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from bridge.background.ownership import MOVES, LoopStage
from bridge.state.store import Store
from tests.contract.servers import ROOT, Server, environment, script

LONG = os.environ.get("BGSERVER_LONG") == "1"
SECONDS = 3600.0 if LONG else 25.0
HANDOFFS = 10_000 if LONG else 40

POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
state = "sqlite:///{folder}/bgserver.db"
grace = 1.0

[legacy]
app = "tests.integration.ticking:make_service"

[modern]
app = "tests.integration.ticking:create_app"

[[loop]]
name = "ticker"
legacy = "service:ticker"
modern = "ticker"
lease = 1.0
drain = 0.3
"""


@attrs.define
class _Pair:
    """
    Two servers on one state and one database.
    """

    folder: Path
    fence: str
    servers: list[Server] = attrs.field(factory=list)

    def start(self) -> Server:
        number = len(list(self.folder.glob("log-*")))
        env = environment(TICKING_DATABASE=str(self.folder / "ticks.db"), TICKING_FENCE=self.fence)
        command = [*script("twistd"), "--pidfile=", "-n", "bgserver", "--config", str(self.folder / "bgserver.toml")]
        server = Server.start(command, ROOT, env, self.folder / f"log-{number}")
        self.servers.append(server)
        return server

    def ticks(self) -> list[int]:
        with closing(sqlite3.connect(self.folder / "ticks.db", timeout=30)) as database:
            return [number for (number,) in database.execute("SELECT number FROM ticks ORDER BY number")]


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Pair]:
    (tmp_path / "bgserver.toml").write_text(POLICY.format(folder=tmp_path))
    made = _Pair(tmp_path, getattr(request, "param", "on"))
    try:
        yield made
    finally:
        for server in made.servers:
            server.kill()


def _torment(pair: _Pair, seconds: float, handoffs: int, seed: int) -> int:
    """
    Hand over, kill and pause at random; how many hand-offs were made.
    """
    dice = random.Random(seed)
    for server in [pair.start(), pair.start()]:
        server.listening()
    with closing(Store.open(f"sqlite:///{pair.folder}/bgserver.db")) as store:
        stage, made, end = LoopStage.LEGACY, 0, time.monotonic() + seconds
        while time.monotonic() < end and made < handoffs:
            kind = dice.random()
            if kind < 0.1:
                victim = pair.servers.pop(dice.randrange(len(pair.servers)))
                victim.kill()
                pair.start().listening()
            elif kind < 0.3:
                victim = dice.choice(pair.servers)
                victim.process.send_signal(signal.SIGSTOP)
                time.sleep(dice.uniform(0.1, 1.6))
                victim.process.send_signal(signal.SIGCONT)
            else:
                stage = dice.choice(sorted(MOVES[stage], key=lambda each: each.value))
                store.set_loop_stage("ticker", stage.value, who="test", why="torment", forced=True)
                made += 1
                time.sleep(dice.uniform(0.05, 0.8))
    return made


def test_no_tick_is_committed_twice(pair: _Pair):
    """
    Whatever happens to the processes, each tick is committed by one owner, and none is left out.

    Seen to fail: the next test is this one without the fence.
    """
    handed = _torment(pair, SECONDS, HANDOFFS, seed=1)

    ticks = pair.ticks()
    assert handed > 5
    assert list(range(1, len(ticks) + 1)) == ticks
    assert len(ticks) > 50


@pytest.mark.parametrize("pair", ["off"], indirect=True)
def test_without_the_fence_ticks_are_doubled(pair: _Pair):
    """
    The same torment without the comparison of epochs does commit ticks twice: the lease alone is no promise.
    """
    doubled = False
    for seed in range(6):
        _torment(pair, 12.0, HANDOFFS, seed)
        doubled = len(set(pair.ticks())) < len(pair.ticks())
        for server in pair.servers:
            server.kill()
        pair.servers.clear()
        if doubled:
            break

    assert doubled


def test_a_clean_handoff_loses_no_tick_and_goes_back(pair: _Pair):
    """
    From legacy to live and back in one process: modern ticks, then legacy again, each under a new epoch.
    """
    pair.start().listening()
    with closing(Store.open(f"sqlite:///{pair.folder}/bgserver.db")) as store:
        for side, stage in (("legacy", None), ("modern", "live"), ("legacy", "legacy")):
            if stage is not None:
                store.set_loop_stage("ticker", stage, who="test", why="walk", forced=True)
            _until_last_is(pair, side)

    with closing(sqlite3.connect(pair.folder / "ticks.db")) as database:
        owners = database.execute("SELECT DISTINCT epoch, side FROM ticks ORDER BY epoch").fetchall()
    assert [(1, "legacy"), (2, "modern"), (3, "legacy")] == owners


def _until_last_is(pair: _Pair, side: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(pair.folder / "ticks.db", timeout=30)) as database:
            try:
                last = database.execute("SELECT side FROM ticks ORDER BY number DESC LIMIT 1").fetchone()
            except sqlite3.OperationalError:
                last = None  # before the loop has made its table
        if last == (side,):
            return
        time.sleep(0.02)
    raise AssertionError(f"{side} did not tick within 30 s of the hand-off")
