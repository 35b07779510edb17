"""
`bgctl rollback --all` names what it moved and what it left, and a script can tell whether legacy does everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.state import Store
from tests.cli.conftest import Bgctl, Serving

EXPORT = "GET /export/{export_id}"


@pytest.mark.parametrize("up", [False, True])
def test_what_stays_is_named_with_the_reason(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving], up: bool
) -> None:
    """
    By the state and by a server alike: what was legacy's already, what has no legacy any more, and the loops.

    Seen to fail where only what moved was told.
    """
    bgctl("set", EXPORT, "live", "--force", "--why", "w")
    bgctl("set", "POST /log", "retired", "--force", "--why", "w")
    bgctl("handoff", "consumer", "live")
    bgctl("handoff", "consumer", "modern")
    if up:
        serve()

    said = bgctl("rollback", "--all")

    assert [
        f"{EXPORT}: live → legacy",
        "Left: POST /log stays retired: legacy's code is gone. If it is there again: "
        "`bgctl set 'POST /log' legacy --force --why TEXT`.",
        "Left: the loop consumer stays modern: loops are handed over one at a time: `bgctl handoff consumer live`, "
        "then `bgctl handoff consumer legacy`.",
        "Left, since legacy answers it already: default.",
    ] == said.out.splitlines()
    assert 6 == said.status


def test_the_exit_status_says_whether_legacy_does_everything(folder: Path, bgctl: Bgctl) -> None:
    """
    0 where it does, also if it did before; 6 where something stays modern's, and programs read what.
    """
    bgctl("set", EXPORT, "canary", "--force", "--why", "w")

    moved, again = bgctl("rollback", "--all"), bgctl("rollback", "--all")
    bgctl("handoff", "consumer", "live")
    partly = bgctl("rollback", "--all", "--json")

    assert [0, 0, 6] == [moved.status, again.status, partly.status]
    found = json.loads(partly.out)
    assert [] == found["moved"]
    assert {"loop": "consumer", "stage": "live", "side": "modern"}.items() <= found["left"][-1].items()
    assert ["legacy"] * 3 == [row["side"] for row in found["left"][:-1]]


def test_who_is_known_to_no_file_may_roll_back(folder: Path, bgctl: Bgctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A container may run as a number without a name.

    Seen to end in a traceback of KeyError, with nothing rolled back.
    """

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)

    assert 0 == bgctl("set", EXPORT, "shadow").status
    assert 0 == bgctl("rollback", EXPORT).status
    assert Store.open(f"sqlite:///{folder / 'state.db'}").audit()[0].who.startswith("uid ")
