"""
Owns the verdict on one request: same, different or noise.

Noise is what differs where the answering side also differs from itself, on this very
request; anything beyond is a difference.  So nothing is learned from one request for
another.

Refuses: to add up.  A tally and the gate do.
"""

from __future__ import annotations

import enum

import attrs

from bridge.parity.compare import Comparison, Tier, compare
from bridge.parity.differences import Difference, Kind
from bridge.parity.effects import compare_effects
from bridge.parity.ids import IdMap
from bridge.parity.observe import Effect, Ending, Observation
from bridge.parity.rules import RULES, Rules


class Verdict(enum.Enum):
    """
    What one pair says.
    """

    SAME = "same"
    DIFFERENT = "different"
    NOISE = "noise"


class Discord(enum.Enum):
    """
    Which of the two comparisons of one request differs where the other doesn't.
    """

    NONE = "none"
    AGAINST = "against"  # legacy with modern differs, legacy with itself doesn't
    IN_FAVOUR = "in_favour"


@attrs.frozen
class Judged:
    """
    One request, judged.

    @ivar differences: Between legacy (left) and modern (right), whatever the verdict.
    @ivar noise: Between the answering side and itself; None where it wasn't run twice.
    @ivar outcome: The status of the authoritative answer; None where it had none.
    @ivar slower: 1 where modern took clearly longer than legacy under the same
        conditions, -1 the other way round, else 0.
    @ivar stalled: The same where they lie so far apart that somebody waits for it.
    @ivar by_modern: Whether the client got modern's answer.
    """

    verdict: Verdict
    differences: tuple[Difference, ...]
    noise: tuple[Difference, ...] | None
    tier: Tier
    outcome: int | None
    discord: Discord
    slower: int = 0
    by_modern: bool = False
    stalled: int = 0


# Latencies that differ by less than this many seconds are nobody's concern: one
# millisecond instead of two is twice as fast, and no client feels it.
LEAST = 0.005
# And those that differ by more than this are somebody's, however seldom that is.
MOST = 0.1


def judge(
    answer: Observation,
    other: Observation,
    replicate: Observation | None,
    answered_by_modern: bool,
    rules: Rules = RULES,
    stream: bool = False,
    own_ids: bool = False,
    stored: tuple[tuple[Effect, ...], tuple[Effect, ...]] | None = None,
) -> Judged:
    """
    Judge one request.

    @param own_ids: Whether the runs made ids of their own, as sandboxes do.
    @param stored: The effects read from the two sides' sandboxes, the answering
        side's first.
    """

    def one(left: Observation, right: Observation) -> Comparison:
        return compare(left, right, rules, IdMap() if own_ids else None, stream)

    pair = one(other, answer) if answered_by_modern else one(answer, other)
    itself = None if replicate is None else one(answer, replicate)
    if stored is not None and replicate is not None:
        found = compare_stored(other, replicate, answered_by_modern, rules, stored)
        pair = attrs.evolve(pair, differences=pair.differences + found, tier=Tier.DIFFERENT if found else pair.tier)
    noisy = frozenset() if itself is None else frozenset(d.place for d in itself.differences)
    places = frozenset(d.place for d in pair.differences)
    if pair.same and answer.ending is Ending.LEFT and (replicate is None or not one(replicate, other).same):
        # The client left before it had seen all: what came until then shows nothing.
        verdict = Verdict.NOISE
    elif pair.same:
        verdict = Verdict.SAME
    elif places <= noisy:
        verdict = Verdict.NOISE
    else:
        verdict = Verdict.DIFFERENT
    discord = Discord.NONE
    if itself is None:
        if verdict is Verdict.DIFFERENT:
            discord = Discord.AGAINST
    elif (places <= noisy) != (noisy <= places):
        discord = Discord.IN_FAVOUR if places <= noisy else Discord.AGAINST
    slower, apart = (0, 0.0) if replicate is None else _slower(other, replicate, answered_by_modern, rules)
    return Judged(
        verdict,
        pair.differences,
        None if itself is None else itself.differences,
        pair.tier,
        answer.status,
        discord,
        slower,
        answered_by_modern,
        slower if apart >= MOST else 0,
    )


def compare_stored(
    other: Observation,
    replicate: Observation,
    answered_by_modern: bool,
    rules: Rules,
    stored: tuple[tuple[Effect, ...], tuple[Effect, ...]],
) -> tuple[Difference, ...]:
    """
    Compare what two sandboxes did; their answers show whose ids are whose.

    @param stored: What each did, the answering side's first.
    """
    ids = IdMap()
    (left, lefts), (right, rights) = (replicate, stored[0]), (other, stored[1])
    if answered_by_modern:
        left, lefts, right, rights = right, rights, left, lefts
    compare(left, right, rules, ids)
    return tuple(compare_effects(lefts, rights, rules, ids))


def _slower(
    other: Observation, replicate: Observation, answered_by_modern: bool, rules: Rules
) -> tuple[int, float]:
    """
    Compare the two shadows, which ran under the same conditions and in an order of
    chance; the answer itself ran under others.  Also says how many seconds lie between.
    """
    modern, legacy = (replicate, other) if answered_by_modern else (other, replicate)
    one, two = _seconds(legacy), _seconds(modern)
    if one is None or two is None or abs(one - two) < LEAST:
        return 0, 0.0
    if two > rules.slower * one:
        return 1, two - one
    return (-1, one - two) if one > rules.slower * two else (0, 0.0)


def _seconds(observation: Observation) -> float | None:
    if observation.ending is Ending.DEADLINE:
        # An answer whose body never ends is no quick one because it began at once.
        return float("inf")
    return observation.latency if observation.lasted is None else observation.lasted


def effects_differ(differences: tuple[Difference, ...]) -> bool:
    """
    Whether one side did something more, less or more often than the other.
    """
    grave = (Kind.EFFECT_COUNT, Kind.EFFECT_MISSING, Kind.EFFECT_ADDED)
    return any(each.kind in grave for each in differences)
