"""
kill -9 at any moment, on both sides, while tasks are accepted: nothing accepted is lost, nothing finished runs again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.servers import Server
from tests.contract.stores import Database
from tests.faults.load import Load, prove, settle_all

Serve = Callable[..., Server]
Connect = Callable[[], Database]

SEED = int(os.environ.get("BGSERVER_SEED", "20261121"))


def kill_again_and_again(serve: Serve, database: Connect, data: Path, names: list[str], kills: int) -> dict[str, float]:
    """
    Run one server of each name on the same data, under load; kill a random one after a random while, `kills` times.
    """
    dice = random.Random(SEED)
    servers = {name: serve(name) for name in names}
    stored = database()
    with Load(lambda: [server.address for server in servers.values()], dice) as load:
        for _ in range(kills):
            load.wait_for(dice.randrange(1, 40))
            name = dice.choice(names)
            victim = servers.pop(name)
            victim.kill()
            servers[name] = serve(name)
        load.wait_for(10)
    settle_all(stored)
    return prove(stored, data, load.accepted)


@pytest.mark.slow
def test_kills_on_both_sides_lose_nothing(serve: Serve, database: Connect, tmp_path: Path) -> None:
    """
    Legacy and modern, each alone, on one database: four kills here, a thousand in the long form.
    """
    kill_again_and_again(serve, database, tmp_path / "data", ["legacy", "modern"], 4)


@pytest.mark.slow
def test_kills_of_the_harness_lose_nothing(serve: Serve, database: Connect, tmp_path: Path) -> None:
    """
    Both stacks in one process, which dies with both of its consumers.
    """
    kill_again_and_again(serve, database, tmp_path / "data", ["owned-legacy", "owned-modern"], 4)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_kills_on_both_sides_lose_nothing(serve: Serve, database: Connect, tmp_path: Path) -> None:
    """
    The promise in full; a start is repeated only for what was in flight at a kill, ten workers at most. BGSERVER_KILLS
    is another count.

    Seen to fail with a rescue that doesn't see who is dead, and a lease of 12 s: what was lost came back after 18 s.
    """
    kills = int(os.environ.get("BGSERVER_KILLS", "1000"))

    proof = kill_again_and_again(serve, database, tmp_path / "data", ["legacy", "modern"], kills)

    assert proof["repeated"] <= kills * 10
    assert proof["put back within"] < 10.0
    print(proof)


def test_both_sides_claim_from_one_table(serve: Serve, database: Connect, tmp_path: Path) -> None:
    """
    Two consumers on one table: each task is started once, and both of them do their part.
    """
    servers = [serve("legacy"), serve("modern")]
    stored = database()
    with Load(lambda: [server.address for server in servers], random.Random(SEED), pause=0.0) as load:
        load.wait_for(200)
    settle_all(stored)

    proof = prove(stored, tmp_path / "data", load.accepted)

    assert 0 == proof["repeated"]
    sides = {
        row["side"]
        for row in stored.query("SELECT DISTINCT p.side FROM processes p JOIN tasks t ON t.owner = p.boot_id")
    }
    assert {"legacy", "modern"} == sides
