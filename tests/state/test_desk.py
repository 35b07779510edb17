"""
The desk: what stands where under a policy, and why.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from bridge.config import Config, parse_config
from bridge.errors import RefusedChangeError, UnknownLoopError, UnknownRouteError
from bridge.parity.gate import Action, Ruling
from bridge.routing import Stage
from bridge.state import Snapshot, Store
from bridge.state.desk import Desk

NAME = "GET /x"
POLICY = """
[legacy]
app = "a:b"
[modern]
app = "c:d"
[gate]
aa = 1
seen = 0
floor = 60
[[route]]
match = "GET /x"
stage = "shadow"
[[loop]]
name = "consumer"
legacy = "service:consumer"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """
    One route that starts in the shadow, one loop that has no modern side.
    """
    return parse_config(POLICY, "f.toml", tmp_path)


def row(desk: Desk) -> dict[str, object]:
    found: dict[str, object] = desk.status()["routes"][0]
    return found


def test_without_a_state_all_stands_as_the_policy_says(config: Config) -> None:
    """
    Or as it was seen last, where that is known.
    """
    desk = Desk(config, None)

    assert row(desk)["stage"] == "shadow"
    assert row(Desk(config, None, known=Snapshot(3, {NAME: (Stage.LIVE, 0.0)}, {})))["stage"] == "live"
    assert desk.audit() == []
    assert desk.differences(NAME)["differences"] == []
    assert desk.evidence(NAME)["counts"] == {}
    assert desk.report()["stages"] == {"legacy": 1, "shadow": 1}


def test_the_floor_in_time_runs_from_the_last_move(config: Config, store: Store) -> None:
    """
    Not from the first evidence of an earlier visit to the stage.
    """
    store.add_counts(NAME, "code", {"shadow.same": 400, "shadow.aa": 9}, at=0.0)
    early = Desk(config, store, clock=lambda: 30.0)
    late = Desk(config, store, clock=lambda: 61.0)
    assert [row(desk)["why"] for desk in (early, late)] == [
        "needs 30 more seconds at this stage",
        "the evidence passes for canary",
    ]

    store.set_stage(NAME, Stage.LEGACY, who="ann", why="", start=(Stage.SHADOW, 0.0), at=50.0)
    store.set_stage(NAME, Stage.SHADOW, who="ann", why="", at=55.0)

    assert row(late)["why"] == "needs 54 more seconds at this stage"


def test_evidence_of_other_code_does_not_count(config: Config, store: Store) -> None:
    """
    The process knows which code runs; without it, what was counted last counts.
    """
    store.add_counts(NAME, "old", {"shadow.same": 400}, at=0.0)

    assert row(Desk(config, store))["pairs"] == 400
    assert row(Desk(config, store, identities=lambda route: "new"))["pairs"] == 0


def test_code_that_runs_is_known_before_anything_is_counted_of_it(config: Config, store: Store) -> None:
    """
    A counter of 0 says so to who asks the state alone, and former evidence is told of.

    Seen to fail where counters of 0 weren't rows, and where C{former} was always false.
    """
    store.add_counts(NAME, "old", {"shadow.same": 3, "shadow.different": 40, "rejected": 1}, at=0.0)
    store.add_counts(NAME, "new", {"started": 0}, at=5.0)
    desk = Desk(config, store)

    assert row(desk)["why"] == "the evidence starts anew with this code: no traffic has been compared yet"
    assert (desk.evidence(NAME)["identity"], desk.evidence(NAME)["counts"]) == ("new", {})


@pytest.mark.parametrize("between", [[], [Stage.LEGACY]])
def test_a_person_has_rejected_evidence_begin_anew(config: Config, store: Store, between: list[Stage]) -> None:
    """
    What differed was in the data, say: a reason for the shadow ends what was counted,
    from within it too.  It is in the log with what it stood on, and the rest is history.

    Seen to fail where the route that stands there already isn't moved, and where only
    the counters or only the differences end.
    """
    store.add_counts(NAME, "code", {"shadow.same": 800, "shadow.different": 30, "rejected": 1}, at=0.0)
    store.add_fingerprints(NAME, "code", [("f", "value", "$.a", 30)], at=0.0)
    desk = Desk(config, store, clock=lambda: 70.0)
    assert "bgctl set ROUTE shadow --why TEXT" in str(row(desk)["why"])
    for stage in between:
        desk.move(NAME, stage, who="ann", why="")

    moved = desk.move(NAME, Stage.SHADOW, who="ann", why="the rows were mended")

    assert (moved["changed"], moved["anew"]) == (True, True)
    assert row(desk)["why"] == "inconclusive: no traffic has been compared yet"
    assert desk.differences(NAME)["differences"] == []
    logged = store.audit()[0]
    assert (logged.who, logged.why) == ("ann", "the rows were mended")
    kept = store.evidence(logged.evidence or 0)
    assert kept is not None and '"shadow.different": 30' in kept.text
    assert store.counts(NAME, f"code until {logged.id}")["shadow.different"] == 30
    store.add_counts(NAME, "code", {"shadow.same": 400, "shadow.aa": 9}, at=71.0)
    assert row(Desk(config, store, clock=lambda: 140.0))["why"] == "the evidence passes for canary"
    assert desk.differences(NAME)["differences"] == []


def test_clean_evidence_or_no_reason_ends_nothing(config: Config, store: Store) -> None:
    """
    Seen to fail where each reason, or each move into the shadow, has it begin anew.
    """
    store.add_counts(NAME, "code", {"shadow.same": 400}, at=0.0)
    desk = Desk(config, store)
    assert desk.move(NAME, Stage.SHADOW, who="ann", why="to be sure")["changed"] is False
    assert row(desk)["pairs"] == 400

    store.add_counts(NAME, "code", {"shadow.different": 1}, at=1.0)

    assert desk.move(NAME, Stage.SHADOW, who="ann", why=" ")["changed"] is False
    assert row(desk)["pairs"] == 401


def test_the_gate_of_the_process_has_the_last_word(config: Config, store: Store) -> None:
    """
    It may know of more than counts.
    """
    desk = Desk(config, store, rule=lambda route, stage, tally: Ruling(Action.DEMOTE, "a guarantee is broken"))

    assert (row(desk)["gate"], row(desk)["why"]) == ("demote", "a guarantee is broken")


def test_a_way_back_reads_no_evidence(config: Config, store: Store) -> None:
    """
    A rollback has one thing to do.
    """

    def never(route: object, stage: Stage, tally: object) -> Ruling:
        assert stage is Stage.SHADOW
        return Ruling(Action.HOLD, "not asked for")

    store.add_evidence(NAME, "code", "{}", 1.0)

    moved = Desk(config, store, rule=never).move(NAME, Stage.LEGACY, who="ann", why="")

    assert moved["to"]["stage"] == "legacy"
    assert store.audit()[0].evidence is None


def test_a_loop_without_a_modern_side_stays(config: Config, store: Store) -> None:
    """
    And one that the policy doesn't have isn't made.
    """
    desk = Desk(config, store)

    with pytest.raises(RefusedChangeError, match="no modern loop"):
        desk.hand_off("consumer", "live", who="ann", why="")
    with pytest.raises(UnknownLoopError, match="consumer"):
        desk.hand_off("other", "live", who="ann", why="")


def test_the_audit_of_a_loop_is_found_by_its_name(config: Config, store: Store) -> None:
    """
    A route's by any way of writing it; of neither, an error.
    """
    store.set_loop_stage("consumer", "live", who="ann", why="")
    store.set_stage(NAME, Stage.LEGACY, who="ann", why="", start=(Stage.SHADOW, 0.0))
    desk = Desk(config, store)

    assert [found["loop"] for found in desk.audit("consumer")] == ["consumer"]
    assert [found["route"] for found in desk.audit("get /x")] == [NAME]
    with pytest.raises(UnknownRouteError):
        desk.audit("GET /y")


def test_the_lease_says_who_runs_a_loop(config: Config, store: Store) -> None:
    """
    Its holder begins with the side.
    """
    store.acquire("consumer", "legacy:host-1", None, floor=6)

    assert Desk(config, store).status()["loops"] == [
        {"loop": "consumer", "owner": "legacy", "epoch": 7, "stage": "legacy"}
    ]


def test_a_loop_between_two_owners_is_at_handoff(config: Config, store: Store) -> None:
    """
    While the former owner drains it still holds the lease.  Breaks where the stored stage is shown as it is.
    """
    mine = store.acquire("consumer", "legacy:host-1", None)
    store.set_loop_stage("consumer", "live", who="ann", why="")
    assert mine is not None

    between = Desk(config, store).loop("consumer")
    forced = Desk(attrs.evolve(config, force_legacy=True), store).loop("consumer")
    store.release(mine)
    store.acquire("consumer", "modern:host-1", store.lease("consumer"))
    after = Desk(config, store).loop("consumer")

    assert ("handoff", "live", "legacy") == (between["stage"], between["towards"], between["owner"])
    assert "live" == forced["stage"]
    assert ("live", "modern") == (after["stage"], after["owner"])
    assert "towards" not in after


def test_standing_still_is_told_as_such(config: Config, store: Store) -> None:
    """
    No row, no evidence, changed is false.
    """
    moved = Desk(config, store).move(NAME, Stage.SHADOW, who="ann", why="")

    assert (moved["changed"], moved["audit"], store.audit()) == (False, None, [])


def test_what_a_person_took_back_is_told(tmp_path: Path, store: Store) -> None:
    """
    It stays at legacy until a person moves it, and the status says so; what the gate took back is the gate's business.
    """
    config = parse_config(POLICY.replace('stage = "shadow"', 'promote = "auto"'), "f.toml", tmp_path)
    desk = Desk(config, store)
    store.set_stage(NAME, Stage.LIVE, who="ann", why="moved")
    assert not store.snapshot().held

    desk.rollback(NAME, who="ann", why="a bug was seen")
    assert store.snapshot().held == {NAME}
    assert row(desk)["gate"] == "hold"
    assert row(desk)["why"] == "a person took it back: only a person starts its shadow again"

    desk.move(NAME, Stage.SHADOW, who="ann", why="mended")
    store.set_stage(NAME, Stage.LEGACY, who="gate@host", why="differs")
    assert not store.snapshot().held
    assert row(desk)["gate"] == "promote"
