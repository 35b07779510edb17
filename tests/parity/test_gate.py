"""
What the gate says, and the words in which it says it.
"""

from __future__ import annotations

import attrs
import pytest

from bridge.config import GateConfig
from bridge.dispatch import Dropped
from bridge.parity import Action, Gate, Rules, Tally, judge
from bridge.parity.tally import OTHERWISE, UNLIKE, counts_of
from bridge.routing import Effects, Stage
from tests.parity.conftest import seen

NOW = GateConfig(floor=0.0)


def tally(stage: str = "shadow", seconds: float = 1000.0, rejected: int = 0, **counts: int) -> Tally:
    named = {f"{stage}.{name}": count for name, count in counts.items()}
    if rejected:
        named["rejected"] = rejected
    return Tally(named, stage, seconds)


GOOD = {"same": 326, "aa": 326, "by_modern": 20}


@pytest.mark.parametrize(
    "counts, why",
    [
        ({}, "inconclusive: no traffic has been compared yet"),
        (
            {"dropped:unseeded": 7, "dropped:closed": 1, "dropped:foreign": 2},
            "inconclusive: no traffic has been compared yet; 2 went by: only legacy understands them; 7 went by: the "
            "copies of the stores were not ready, and the server's log says why",
        ),
        ({"same": 123, "aa": 123}, "needs 203 more pairs"),
        ({"same": 325, "aa": 325}, "needs 1 more pair"),
        ({"same": 123, "noise": 4, "aa": 127}, "needs 203 more pairs; 4 were noise"),
        ({"same": 326, "different": 1}, "needs 254 more pairs"),
        ({"same": 326, "aa": 199}, "needs 1 more A/A pair"),
        ({"same": 326, "aa": 100}, "needs 100 more A/A pairs"),
        ({**GOOD, "seen:200": 326, "seen:404": 5}, "needs 15 more pairs with status 404"),
        ({"same": 50, "different": 5}, "rejected: 5 of 55 pairs differ"),
        (
            {**GOOD, "seen:200": 20, "seen:404": 20, "slower": 67, "faster": 1},
            "modern is slower: in 67 of 326 pairs, faster in 1",
        ),
        (
            {**GOOD, "seen:200": 20, "seen:404": 20, "stalled": 9, "unstalled": 0},
            "modern keeps clients waiting: in 9 of 326 pairs it takes 100 milliseconds longer and more",
        ),
        (
            {**GOOD, "seen:200": 20, "seen:404": 20, "dropped:long_body": 2, "dropped:foreign": 3, "dropped:full": 99},
            "5 of 331 requests could not be compared (2: their bodies are too long; 3: only legacy understands them)",
        ),
    ],
)
def test_what_is_lacking(counts, why):
    """
    In shadow the gate holds, and says what it waits for.
    """
    ruling = Gate(NOW).rule(Stage.SHADOW, tally(**counts), outcomes=[200, 404], auto=True)

    assert Action.HOLD is ruling.action
    assert ruling.why.startswith(why)
    assert not ruling.passing


def test_a_slow_pair_now_and_then_holds_nothing():
    """
    A fifth of the pairs must be slower, and not as many faster: a busy loop makes some. So it is with a hundredth
    that is much slower, and with a hundredth that can't be compared.
    """
    for found in [(65, 0, 0, 0, 0), (100, 40, 0, 0, 0), (0, 0, 3, 0, 0), (0, 0, 40, 30, 0), (0, 0, 0, 0, 3)]:
        names = ("slower", "faster", "stalled", "unstalled", "dropped:long_body")
        counts = {**GOOD, **dict(zip(names, found, strict=True))}
        assert Gate(NOW).rule(Stage.SHADOW, tally(**counts), auto=True).passing


def test_promotion():
    """
    Passing evidence moves a route one step, where the route says so.
    """
    shadow = Gate(NOW).rule(Stage.SHADOW, tally(**GOOD), auto=True)
    canary = Gate(NOW).rule(Stage.CANARY, tally("canary", **GOOD), auto=True)
    manual = Gate(NOW).rule(Stage.SHADOW, tally(**GOOD))

    assert (Action.PROMOTE, Stage.CANARY) == (shadow.action, shadow.to)
    assert "326 pairs the same, 0 different, 0 noise, 326 A/A" == shadow.why
    assert (Action.PROMOTE, Stage.LIVE) == (canary.action, canary.to)
    assert (Action.HOLD, True, "the evidence passes for canary") == (
        manual.action,
        manual.passing,
        manual.why,
    )


def test_one_stage_is_no_evidence_for_the_next():
    """
    What was seen in the shadow doesn't carry a canary; its calibration does.
    """
    counts = {"shadow.same": 326, "shadow.aa": 326, "canary.same": 326, "canary.by_modern": 20}

    before = Gate(NOW).rule(Stage.CANARY, Tally({**counts, "canary.same": 1}, "canary", 999.0), auto=True)
    after = Gate(NOW).rule(Stage.CANARY, Tally(counts, "canary", 999.0), auto=True)

    assert Action.HOLD is before.action
    assert Action.PROMOTE is after.action


def test_a_canary_must_have_sung():
    """
    One of weight 0, or one that no client fell to, says no more than its shadow did.
    """
    ruling = Gate(NOW).rule(Stage.CANARY, tally("canary", **{**GOOD, "by_modern": 1}), auto=True)

    assert (Action.HOLD, "needs 19 more requests that modern answers") == (ruling.action, ruling.why)


@pytest.mark.parametrize(
    "effects, counts, why",
    [
        (Effects.NONE, {"same": 2000, "aa": 2000}, "needs 20 more requests that modern answers: "),
        (Effects.EXTERNAL, {"base_answers": 2000}, "inconclusive: no answer of modern's yet: "),
    ],
)
def test_a_canary_that_no_subject_falls_to_says_why_and_what_to_do(effects, counts, why):
    """
    One client has one side for good, so more of its requests are waited for in vain.

    Seen to fail with only the number of requests told.
    """
    ruling = Gate(NOW).rule(Stage.CANARY, tally("canary", **counts), effects, auto=True)

    assert ruling.why.startswith(f"{why}it answered none of 2000, since all their subjects fell to legacy")
    for remedy in ("raise the weight", "canary.subject", "trusted_proxies"):
        assert remedy in ruling.why


def test_the_gate_never_completes_a_move():
    """
    Live holds for ever; modern and retired are a person's.
    """
    gate = Gate(NOW)

    live = gate.rule(Stage.LIVE, tally("live", **GOOD), auto=True)
    assert (Action.HOLD, True) == (live.action, live.passing)
    for stage in (Stage.MODERN, Stage.RETIRED):
        assert Action.HOLD is gate.rule(stage, tally(stage.value, **GOOD), auto=True, walk=99.0).action


def test_a_floor_in_time():
    """
    However busy a route is, a stage lasts a while.
    """
    ruling = Gate().rule(Stage.SHADOW, tally(seconds=100.0, **GOOD), auto=True)

    assert (Action.HOLD, "needs 200 more seconds at this stage") == (ruling.action, ruling.why)
    # Breaks where seconds are rounded to the nearest: "0 more seconds" is no reason.
    last = Gate().rule(Stage.SHADOW, tally(seconds=299.8, **GOOD), auto=True)
    assert "needs 1 more seconds at this stage" == last.why


def test_the_way_back():
    """
    Discordant pairs take a canary or a live route back; a shadow has nowhere to go.
    """
    gate = Gate(NOW)
    walk = gate.split.of_counts(8, 0)

    for stage in (Stage.CANARY, Stage.LIVE):
        ruling = gate.rule(stage, tally(stage.value, against=8), walk=walk)
        assert (Action.DEMOTE, Stage.LEGACY) == (ruling.action, ruling.to)
        assert "modern differs where legacy agrees with itself: 8 pairs against 0" == ruling.why
    assert Action.HOLD is gate.rule(Stage.SHADOW, tally(against=8), walk=walk).action


def test_a_broken_guarantee_is_not_weighed():
    """
    It takes a route back at once, and holds a shadow.
    """
    gate = Gate(NOW)

    live = gate.rule(Stage.LIVE, tally("live", **GOOD), breach="a sandbox wrote to the real store")
    shadow = gate.rule(Stage.SHADOW, tally(**GOOD), auto=True, breach="a sandbox wrote to the real store")
    effects = gate.rule(Stage.LIVE, tally("live", effects_differ=2, **GOOD))

    assert (Action.DEMOTE, "a guarantee is broken: a sandbox wrote to the real store") == (live.action, live.why)
    assert Action.HOLD is shadow.action
    assert (Action.DEMOTE, "its effects differ in 2 pairs") == (effects.action, effects.why)


def test_a_no_of_another_stage_is_told_as_one() -> None:
    """
    A route that was rejected in its shadow, and forced on since, was not taken back: the reading of a stage that has
    seen no difference itself says no more than that there was a no.
    """
    why = Gate().rule(Stage.LIVE, tally("live", rejected=1)).why

    assert why.startswith("rejected before, with this code; the evidence starts anew")


def test_what_was_taken_back_stays():
    """
    A test that said no isn't asked again until the code changes.
    """
    gate = Gate(NOW)

    assert gate.rule(Stage.SHADOW, tally(same=50, different=5)).rejected
    for stage in (Stage.LEGACY, Stage.SHADOW, Stage.CANARY):
        assert Action.HOLD is gate.rule(stage, tally(stage.value, rejected=1, **GOOD), auto=True).action


def test_the_beginning():
    """
    A route that promotes itself goes into the shadow without evidence; a shadow changes
    nothing.
    """
    gate = Gate()

    auto = gate.rule(Stage.LEGACY, tally("legacy"), auto=True)
    assert (Action.PROMOTE, Stage.SHADOW) == (auto.action, auto.to)
    assert Action.HOLD is gate.rule(Stage.LEGACY, tally("legacy")).action
    assert Action.HOLD is gate.rule(Stage.LEGACY, tally("legacy"), Effects.EXTERNAL, auto=True).action


def test_external_effects_are_judged_by_errors():
    """
    Where nothing can shadow, a canary's own errors decide, measured by legacy's.
    """
    gate = Gate(NOW)

    def rule(stage=Stage.CANARY, **counts):
        return gate.rule(stage, tally(stage.value, **counts), Effects.EXTERNAL, auto=True)

    assert "its effects are external: nothing can shadow it" == rule(Stage.SHADOW).why
    assert "inconclusive: no answer of modern's yet" == rule().why
    assert "needs 226 more answers without an error" == rule(answers=100).why
    assert (Action.PROMOTE, "0 errors in 326 answers") == (rule(answers=326).action, rule(answers=326).why)
    assert (Action.DEMOTE, "5 of 20 answers were errors") == (
        rule(answers=20, errors=5).action,
        rule(answers=20, errors=5).why,
    )
    assert Action.HOLD is rule(answers=20, errors=5, base_answers=100, base_errors=30).action


def test_counts():
    """
    A judged request adds what it says, under its stage.
    """
    judged = judge(seen({"a": 1}), seen({"a": 2}), seen({"a": 1}), False)
    same = judge(seen({"a": 1}), seen({"a": 1}), None, False)

    assert {"shadow.different": 1, "shadow.aa": 1, "shadow.against": 1} == counts_of(judged, "shadow")
    assert {"live.same": 1, "live.identical": 1, "live.seen:200": 1} == counts_of(same, "live")
    noisy = judge(seen({"a": 1}), seen({"a": 2}), seen({"a": 3}), False, Rules())
    assert 1 == counts_of(noisy, "shadow")["shadow.aa_different"]
    slow = judge(seen(), seen(latency=0.1), seen(), False)
    assert 1 == counts_of(slow, "shadow")["shadow.slower"]
    assert 1 == counts_of(judge(seen(), seen(), seen(latency=0.1), False), "shadow")["shadow.faster"]
    assert 0 == counts_of(slow, "shadow")["shadow.stalled"]
    stalled = judge(seen(), seen(latency=0.2), seen(), False)
    assert 1 == counts_of(stalled, "shadow")["shadow.stalled"]
    assert 1 == counts_of(judge(seen(), seen(), seen(latency=0.2), False), "shadow")["shadow.unstalled"]
    silent = attrs.evolve(seen(), status=None)
    assert not any("seen" in name for name in counts_of(judge(silent, silent, None, False), "shadow"))


def test_a_dropped_effect_is_counted_as_such():
    """
    Effects that one side alone had are counted apart: they take a route back sooner.
    """
    from bridge.parity import Effect

    judged = judge(seen(effects=[Effect("row", "t:1")]), seen(), None, False)

    assert 1 == counts_of(judged, "live")["live.effects_differ"]


def test_each_way_of_going_by_has_its_words():
    """
    Whatever is dropped is told where nothing is compared; only a server that stops has nothing to explain.

    Seen to fail with a reason under another name than the one that is counted: it was told nowhere.
    """
    assert {each.value for each in Dropped} - {Dropped.CLOSED.value} == set(UNLIKE | OTHERWISE)
