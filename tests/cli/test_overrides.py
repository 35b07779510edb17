"""
FORCE_LEGACY is shouted wherever it counts, and by whom it is set is never guessed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bridge.cli.overrides import overridden
from bridge.routing import Stage
from bridge.state import Store
from tests.cli.conftest import Bgctl

EXPORT = "GET /export/{export_id}"


@pytest.fixture
def store(folder: Path) -> Store:
    """
    The state that the folder's policy names.
    """
    made = Store.open(f"sqlite:///{folder / 'state.db'}")
    made.set_stage(EXPORT, Stage.LIVE, who="ann", why="")
    return made


def test_a_server_that_forces_legacy_is_shouted_with_the_stages_that_it_overrides(store: Store, bgctl: Bgctl) -> None:
    """
    Where there is no admin listener the server has left it in the state: the stages alone would be a lie.

    Seen to fail with the policy's own word for it, which a server that was started with the variable has not.
    """
    store.present("web-1-17", True, time.time())
    store.present("web-2-17", False, time.time())

    status, loops, route = bgctl("status"), bgctl("loops"), bgctl("route", EXPORT)

    shout = "FORCE_LEGACY on web-1-17: legacy answers everything there, whatever the stages say. "
    assert status.out.startswith(shout + "The stages count on web-2-17.\n")
    assert f"Overridden there: {EXPORT} (live).\n" in status.out
    assert loops.out.startswith(shout)
    assert route.out.startswith(shout)
    assert "Running on this state: web-1-17, web-2-17." in status.out
    servers = json.loads(bgctl("status", "--json").out)["servers"]
    assert {"web-1-17": True, "web-2-17": False} == {row["name"]: row["force_legacy"] for row in servers}


def test_a_move_that_does_not_count_yet_says_so(store: Store, bgctl: Bgctl) -> None:
    """
    It is recorded, and waits; the way back needs no such word.
    """
    store.present("web-1-17", True, time.time())

    forward = bgctl("set", "POST /log", "modern", "--force", "--why", "w")
    back = bgctl("rollback", "POST /log")

    assert "It doesn't count yet on web-1-17: FORCE_LEGACY is set there." in forward.out
    assert "count" not in back.out


def test_a_server_that_was_killed_is_told_as_such(store: Store, bgctl: Bgctl) -> None:
    """
    It says no goodbye, so nobody knows whether it runs; what stopped in order is gone.
    """
    store.present("web-1-17", True, time.time() - 3600)
    killed = bgctl("status").out
    store.absent("web-1-17")
    stopped = bgctl("status").out

    assert killed.startswith("FORCE_LEGACY was set on web-1-17, which gave its last sign of life at ")
    assert "didn't stop in order" in killed
    assert "FORCE_LEGACY" not in stopped
    assert "No server is known to run on this state." in stopped


def test_what_a_start_would_do_is_not_what_runs(
    folder: Path, store: Store, bgctl: Bgctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The variable of this terminal, or the file that was edited since, says what the next server does, and not this one.
    """
    monkeypatch.setenv("BGSERVER_FORCE_LEGACY", "1")
    down = bgctl("status").out
    store.present("web-1-17", False, time.time())
    up = bgctl("status").out
    monkeypatch.delenv("BGSERVER_FORCE_LEGACY")
    policy = folder / "bgserver.toml"
    policy.write_text("force_legacy = true\n" + policy.read_text())
    by_file = bgctl("status").out

    assert "FORCE_LEGACY is set by BGSERVER_FORCE_LEGACY here: on a server that starts with it" in down
    assert "none runs now" in down
    assert "it isn't on web-1-17, which runs now" in up
    assert "FORCE_LEGACY is set by bgserver.toml here" in by_file


def test_what_is_not_overridden_is_said() -> None:
    """
    A retired route has no legacy, and a loop changes its owner at a start alone.
    """
    rows = [{"route": "GET /old", "stage": "retired"}, {"route": "GET /", "stage": "shadow"}]
    loops = [
        {"loop": "kept", "stage": "live", "owner": "modern"},
        {"loop": "taken", "stage": "handoff", "towards": "live", "owner": "legacy"},
    ]

    lines = overridden({"force_legacy": True, "routes": rows, "loops": loops})

    assert lines[0].startswith("FORCE_LEGACY: legacy answers everything on this server")
    assert lines[1:] == [
        "Overridden there: the loop taken (live).",
        "Still modern's, until a restart: the loop kept.",
        "Retired: GET /old. A server that got the switch by SIGHUP has modern answer there; one that started with it "
        "asks legacy's application, whose code for it is gone.",
    ]
    assert [] == overridden({"force_legacy": False, "routes": rows, "loops": loops, "servers": []})
