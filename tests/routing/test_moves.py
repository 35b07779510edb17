"""
Who may move a route where, when a person asks.
"""

from __future__ import annotations

import itertools

import pytest

from bridge.errors import RefusedChangeError
from bridge.routing import Stage
from bridge.routing.moves import check_move, is_forward


def refusal(old: Stage, new: Stage, passing: bool = False, **asked: object) -> str | None:
    weights = {Stage.CANARY: 5.0}
    try:
        check_move(
            "GET /x",
            (old, weights.get(old, 0.0)),
            (new, weights.get(new, 0.0)),
            passing=passing,
            reading="needs 203 more pairs",
            **asked,  # type: ignore[arg-type]
        )
    except RefusedChangeError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("old", "new"), list(itertools.combinations(Stage, 2)))
def test_back_is_free_but_from_where_legacy_is_gone(new: Stage, old: Stage) -> None:
    """
    At any time, without evidence and without a reason.
    """
    old, new = (old, new) if old.step > new.step else (new, old)

    assert (refusal(old, new) is None) is (old is not Stage.RETIRED)


@pytest.mark.parametrize(("old", "new"), list(itertools.combinations(Stage, 2)))
def test_forward_wants_evidence_and_goes_one_step_at_a_time(old: Stage, new: Stage) -> None:
    """
    Into the shadow alone is free: nothing moves there.
    """
    one_step = new.step - old.step == 1

    assert (refusal(old, new) is None) is (new is Stage.SHADOW)
    assert (refusal(old, new, passing=True) is None) is (one_step or new is Stage.SHADOW)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(Stage, 2)))
def test_force_goes_everywhere_with_a_reason(old: Stage, new: Stage) -> None:
    """
    The reason stays visible in the log, so it can't be left out.
    """
    assert refusal(old, new, force=True, why="walk") is None
    assert "--why" in str(refusal(old, new, force=True, why=" "))


def test_standing_still_is_no_move() -> None:
    """
    Asking for what is there already is refused nowhere.
    """
    assert [refusal(stage, stage) for stage in Stage] == [None] * 6


def test_what_the_gate_says_is_in_the_refusal() -> None:
    """
    Whoever is refused knows how much is missing.
    """
    assert "needs 203 more pairs" in str(refusal(Stage.SHADOW, Stage.CANARY))


def test_without_a_modern_application_there_is_nowhere_to_go() -> None:
    """
    Not even by force.
    """
    assert "[modern]" in str(refusal(Stage.LEGACY, Stage.LIVE, force=True, why="walk", modern=False))
    assert refusal(Stage.LIVE, Stage.LEGACY, modern=False) is None


def test_a_heavier_canary_is_a_step_forward() -> None:
    """
    More weight wants evidence, less is free, none is no canary.
    """
    heavier = {"old": (Stage.CANARY, 5.0), "new": (Stage.CANARY, 50.0)}
    lighter = {"old": (Stage.CANARY, 50.0), "new": (Stage.CANARY, 5.0)}

    assert (is_forward(**heavier), is_forward(**lighter)) == (True, False)
    check_move("GET /x", **lighter, passing=False, reading="")
    check_move("GET /x", **heavier, passing=True, reading="")
    with pytest.raises(RefusedChangeError, match="holds it: less"):
        check_move("GET /x", **heavier, passing=False, reading="less")
    with pytest.raises(RefusedChangeError, match="--weight"):
        check_move("GET /x", (Stage.SHADOW, 0.0), (Stage.CANARY, 0.0), passing=True, reading="")
