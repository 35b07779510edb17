"""
The way back: it loses no race, and says what it couldn't do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.config import Config, parse_config
from bridge.errors import StaleChangeError, StateUnavailableError
from bridge.routing import Stage
from bridge.state import Store
from bridge.state.desk import Desk

POLICY = """
[legacy]
app = "a:b"
[modern]
app = "c:d"
[[route]]
match = "GET /a"
[[route]]
match = "GET /b"
[[route]]
match = "GET /c"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse_config(POLICY, "f.toml", tmp_path)


def before_a_move(monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], None]) -> None:
    """
    Have something happen between the look and the write of each move.
    """
    write = Store.set_stage

    def set_stage(self: Store, route: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs["who"] == "ann":
            happens(route)
        return write(self, route, *args, **kwargs)

    monkeypatch.setattr(Store, "set_stage", set_stage)


def test_a_way_back_loses_no_race(config: Config, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Who sends a route back means it wherever somebody else has put it in the meantime.

    Seen to fail with the refusal of a stale change, the other routes still where they were.
    """
    for name in ("GET /a", "GET /b"):
        store.set_stage(name, Stage.CANARY, 5.0, who="bob", why="")
    weights = iter([6.0, 7.0])

    def raced(route: str) -> None:
        if route == "GET /a" and (weight := next(weights, None)):
            store.set_stage(route, Stage.CANARY, weight, who="bob", why="")

    before_a_move(monkeypatch, raced)

    found = Desk(config, store).rollback(None, who="ann", why="worst night")

    assert ["GET /a", "GET /b"] == [row["route"] for row in found["moved"]]
    assert [7.0, 5.0] == [row["from"]["weight"] for row in found["moved"]]
    assert {Stage.LEGACY} == {stage for stage, _ in store.stages().values()}


def test_two_operators_who_move_at_once_are_not_both_told_yes(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Forward the second is refused: he decided on what isn't so any more. Nothing is lost of the first one's.
    """
    before_a_move(monkeypatch, lambda route: store.set_stage(route, Stage.LIVE, who="bob", why="") and None)

    with pytest.raises(StaleChangeError, match="is at live, not at legacy any more"):
        Desk(config, store).move("GET /a", Stage.CANARY, who="ann", why="w", force=True)

    assert (Stage.LIVE, 0.0) == store.stages()["GET /a"]
    assert ["bob"] == [change.who for change in store.audit()]


def test_a_rollback_that_ends_in_the_middle_says_what_it_did(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The state may fill up between two routes: those that went back are told, and the others with the cause.
    """
    for name in ("GET /a", "GET /b", "GET /c"):
        store.set_stage(name, Stage.MODERN, who="bob", why="")

    def full(route: str) -> None:
        if route == "GET /b":
            raise StateUnavailableError("sqlite:///x", "be written", "database or disk is full")

    before_a_move(monkeypatch, full)

    found = Desk(config, store).rollback(None, who="ann", why="w")

    assert ["GET /a"] == [row["route"] for row in found["moved"]]
    left = {row["route"]: row for row in found["left"]}
    assert {"GET /b", "GET /c", "default"} == set(left)
    assert "disk is full" in left["GET /b"]["why"]
    assert "disk is full" in left["GET /c"]["why"]
    assert ["modern", "modern", "legacy"] == [left[name]["side"] for name in ("GET /b", "GET /c", "default")]


def test_a_rollback_that_could_do_nothing_is_refused(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    As every command is where the state can't be written.
    """
    store.set_stage("GET /a", Stage.MODERN, who="bob", why="")

    def locked(route: str) -> None:
        raise StateUnavailableError("sqlite:///x", "be written", "database is locked")

    before_a_move(monkeypatch, locked)

    with pytest.raises(StateUnavailableError, match="locked"):
        Desk(config, store).rollback(None, who="ann", why="w")
