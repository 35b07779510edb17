"""
Ticks of two sides: which belong together, which are missing, and what they differ in.
"""

from __future__ import annotations

from typing import Any

import pytest

from bridge.background.pairing import MOST, Paired, Pairing, Verdict, compare_ticks
from bridge.parity.differences import Kind
from bridge.parity.observe import Effect
from bridge.routing.stage import Side

LEGACY, MODERN = Side.LEGACY, Side.MODERN


def row(key: str, value: Any = None) -> Effect:
    return Effect("row", key, value)


def verdicts(found: list[Paired]) -> list[tuple[str, Verdict]]:
    return [(each.tick, each.verdict) for each in found]


def test_two_ticks_of_one_key_are_a_pair():
    """
    Whoever tells it second settles it.
    """
    pairing = Pairing()

    first = pairing.told(MODERN, "a", [row("x", {"n": 1})])
    second = pairing.told(LEGACY, "a", [row("x", {"n": 1})])

    assert [] == first
    assert [("a", Verdict.SAME)] == verdicts(second)
    assert (0, 0) == (pairing.waiting(LEGACY), pairing.waiting(MODERN))


def test_a_pair_that_differs_shows_both():
    """
    With each difference, and what either side told.
    """
    pairing = Pairing()
    pairing.told(LEGACY, "a", [row("x", {"n": 1})])

    [found] = pairing.told(MODERN, "a", [row("x", {"n": 2})])

    assert Verdict.DIFFERENT is found.verdict
    assert ((row("x", {"n": 1}),), (row("x", {"n": 2}),)) == (found.legacy, found.modern)
    assert ["effect:row:x.n"] == [each.path for each in found.differences]


def test_what_came_before_the_first_pair_is_forgotten():
    """
    One side began earlier than the other: that is no tick that the other has missed.
    """
    pairing = Pairing()
    pairing.told(LEGACY, "a", [])
    pairing.told(LEGACY, "b", [])
    pairing.told(MODERN, "before", [])

    assert [("b", Verdict.SAME)] == verdicts(pairing.told(MODERN, "b", []))
    assert (0, 0) == (pairing.waiting(LEGACY), pairing.waiting(MODERN))


def test_a_tick_that_the_other_went_past_is_missing():
    """
    After a pair, what one side told before the next one and the other did not is missing there.

    Seen to fail with the order of the queues left out: nothing was ever missing.
    """
    pairing = Pairing()
    for side in Side:
        pairing.told(side, "a", [])
    pairing.told(LEGACY, "b", [row("x")])
    pairing.told(MODERN, "c", [row("y")])
    pairing.told(LEGACY, "d", [])

    found = pairing.told(MODERN, "d", [])

    assert [("b", Verdict.MISSING_MODERN), ("c", Verdict.MISSING_LEGACY), ("d", Verdict.SAME)] == verdicts(found)
    assert [((row("x"),), None), (None, (row("y"),))] == [(each.legacy, each.modern) for each in found[:2]]
    assert [Kind.MISSING, Kind.ADDED] == [each.missing().kind for each in found[:2]]


def test_a_tick_told_twice_counts_once():
    """
    Before its pair and after it.
    """
    pairing = Pairing()
    pairing.told(LEGACY, "a", [])
    again = pairing.told(LEGACY, "a", [row("x")])
    pairing.told(MODERN, "a", [])

    assert ([], []) == (again, pairing.told(MODERN, "a", []))
    assert 0 == pairing.waiting(MODERN)


@pytest.mark.parametrize(("side", "verdict"), [(LEGACY, Verdict.MISSING_MODERN), (MODERN, Verdict.MISSING_LEGACY)])
def test_a_side_that_never_tells_is_seen(side: Side, verdict: Verdict):
    """
    Waiting ticks are bounded: the oldest is missing, though there never was a pair.
    """
    pairing = Pairing()
    found = [each for number in range(MOST + 1) for each in pairing.told(side, str(number), [])]

    assert [("0", verdict)] == verdicts(found)
    assert MOST == pairing.waiting(side)


def test_effects_are_the_same_in_any_order():
    """
    Rows that are written in one transaction have no order; the same row twice is two effects.
    """
    one = [row("x", 1), row("y"), row("x", 2)]

    assert [] == compare_ticks(one, [row("y"), row("x", 1), row("x", 2)])
    assert [] == compare_ticks([row("x", {"a": 1, "b": 2})], [row("x", {"b": 2, "a": 1})])


def test_ids_are_not_mapped():
    """
    Both sides look at the same rows: another row is another effect.

    Seen to fail with the comparison of answers, whose map pairs any two ids.
    """
    ids = ["50c90639-0af1-4c0f-a0b3-384400fae3a3", "84ea66db-d226-4012-86f9-40d300c4bc6d"]

    found = compare_ticks([row(f"tasks:{ids[0]}")], [row(f"tasks:{ids[1]}")])

    assert [Kind.EFFECT_MISSING, Kind.EFFECT_ADDED] == [each.kind for each in found]


def test_more_or_fewer_effects_of_one_key_differ():
    """
    How often counts.
    """
    assert [Kind.EFFECT_MISSING] == [each.kind for each in compare_ticks([row("x"), row("x")], [row("x")])]
    assert [Kind.EFFECT_ADDED] == [each.kind for each in compare_ticks([row("x")], [row("x"), row("x")])]
