"""
One loop, two stacks, two processes: it is handed over again and again while processes are killed and paused, threads
stall and wall clocks jump, and no tick is committed twice.
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
SECONDS = 7200.0 if LONG else 25.0
HANDOFFS = 10_000 if LONG else 40
# Many loops are handed over at the same time where there are many hand-offs to make: a kill or a pause hits them all.
LOOPS = 10 if LONG else 1


def names(count: int) -> list[str]:
    """
    What the ticking application calls its loops; importing it would bring a reactor.
    """
    return [f"ticker{number}" for number in range(count)]


POLICY = """
listen = ["tcp:0:interface=127.0.0.1"]
state = "sqlite:///{folder}/bgserver.db"
grace = 1.0

[legacy]
app = "tests.integration.ticking:make_service"

[modern]
app = "tests.integration.ticking:create_app"
"""
LOOP = """
[[loop]]
name = "{name}"
legacy = "service:{name}"
modern = "{name}"
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
    loops: int
    servers: list[Server] = attrs.field(factory=list)

    def start(self) -> Server:
        number = len(list(self.folder.glob("log-*")))
        env = environment(
            TICKING_DATABASE=str(self.folder / "ticks.db"),
            TICKING_FENCE=self.fence,
            TICKING_LOOPS=str(self.loops),
            TICKING_WORK="0.001" if self.loops == 1 else "0.05",
        )
        command = [*script("twistd"), "--pidfile=", "-n", "bgserver", "--config", str(self.folder / "bgserver.toml")]
        server = Server.start(command, ROOT, env, self.folder / f"log-{number}")
        self.servers.append(server)
        return server

    def ticks(self) -> dict[str, list[int]]:
        """
        What each loop has committed.
        """
        found: dict[str, list[int]] = {name: [] for name in names(self.loops)}
        with closing(sqlite3.connect(self.folder / "ticks.db", timeout=30)) as database:
            for name, number in database.execute("SELECT loop, number FROM ticks ORDER BY number"):
                found[name].append(number)
        return found


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Pair]:
    fence, loops = getattr(request, "param", ("on", LOOPS))
    policy = POLICY.format(folder=tmp_path) + "".join(LOOP.format(name=name) for name in names(loops))
    (tmp_path / "bgserver.toml").write_text(policy)
    made = _Pair(tmp_path, fence, loops)
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
        stages = dict.fromkeys(names(pair.loops), LoopStage.LEGACY)
        made, end = 0, time.monotonic() + seconds
        while time.monotonic() < end and made < handoffs:
            # One kill hits all loops, so that each loop sees as many for each hand-off, however many there are.
            kind = dice.random() * pair.loops
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
                loop = dice.choice(list(stages))
                stages[loop] = dice.choice(sorted(MOVES[stages[loop]], key=lambda each: each.value))
                store.set_loop_stage(loop, stages[loop].value, who="test", why="torment", forced=True)
                made += 1
                time.sleep(dice.uniform(0.05, 0.8) / pair.loops)
    return made


@pytest.mark.timeout(SECONDS + 120)
def test_no_tick_is_committed_twice(pair: _Pair):
    """
    Whatever happens to the processes, each tick is committed by one owner, and none is left out.

    Seen to fail: the next test is this one without the fence.
    """
    handed = _torment(pair, SECONDS, HANDOFFS, seed=1)

    ticks = pair.ticks()
    print(f"{handed} hand-offs, {sum(map(len, ticks.values()))} ticks")
    assert handed > 5
    assert {name: list(range(1, len(numbers) + 1)) for name, numbers in ticks.items()} == ticks
    assert min(map(len, ticks.values())) > 50


@pytest.mark.slow
@pytest.mark.parametrize("pair", [("off", 1)], ids=["off"], indirect=True)
def test_without_the_fence_ticks_are_doubled(pair: _Pair):
    """
    The same torment without the comparison of epochs does commit ticks twice: the lease alone is no promise.
    """
    doubled = False
    for seed in range(6):
        _torment(pair, 12.0, 40, seed)
        doubled = any(len(set(numbers)) < len(numbers) for numbers in pair.ticks().values())
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
                store.set_loop_stage("ticker0", stage, who="test", why="walk", forced=True)
            _until_last_is(pair, side)

    with closing(sqlite3.connect(pair.folder / "ticks.db")) as database:
        found = database.execute("SELECT DISTINCT epoch, side FROM ticks WHERE loop = 'ticker0' ORDER BY epoch")
        owners = found.fetchall()
    assert [(1, "legacy"), (2, "modern"), (3, "legacy")] == owners


def _until_last_is(pair: _Pair, side: str) -> None:
    newest = "SELECT side FROM ticks WHERE loop = 'ticker0' ORDER BY number DESC LIMIT 1"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(pair.folder / "ticks.db", timeout=30)) as database:
            try:
                last = database.execute(newest).fetchone()
            except sqlite3.OperationalError:
                last = None  # before the loop has made its table
        if last == (side,):
            return
        time.sleep(0.02)
    raise AssertionError(f"{side} did not tick within 30 s of the hand-off")
