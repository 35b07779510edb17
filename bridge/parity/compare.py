"""
Owns the comparison of two observations: status, headers, body, ending, effects; all
differences, each with its class and its place.

Two bodies are identical (to the byte, whatever the chunks), equivalent (the same
document in other bytes) or different.  What was truncated is equal to nothing.

Refuses: latency, which one pair can't judge; see L{bridge.parity.gate}.
"""

from __future__ import annotations

import enum

import attrs

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.documents import DocumentComparison, NotJSON, parse
from bridge.parity.effects import compare_effects
from bridge.parity.events import compare_events
from bridge.parity.headers import compare_headers, media_type, normalised
from bridge.parity.ids import IdMap
from bridge.parity.observe import Ending, Observation
from bridge.parity.rules import RULES, Rules


class Tier(enum.Enum):
    """
    How alike two answers are.
    """

    IDENTICAL = "identical"
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"


@attrs.frozen
class Comparison:
    """
    What two answers differ in.

    @ivar differences: Those that count.
    """

    differences: tuple[Difference, ...]
    tier: Tier

    @property
    def same(self) -> bool:
        """
        Whether nothing that counts differs.
        """
        return not self.differences

    @property
    def fingerprints(self) -> frozenset[str]:
        """
        What differs, whatever the values.
        """
        return frozenset(each.fingerprint for each in self.differences)


_IDENTICAL = Comparison((), Tier.IDENTICAL)


def _alike(left: Observation, right: Observation) -> bool:
    """
    Whether there is nothing to look for, which is the common case.
    """
    return (
        left.digest == right.digest
        and left.size == right.size
        and not left.truncated
        and left.status == right.status
        and left.ending is right.ending
        and left.error == right.error
        and left.headers == right.headers
        and left.effects == right.effects
    )


def compare(
    left: Observation,
    right: Observation,
    rules: Rules = RULES,
    ids: IdMap | None = None,
    stream: bool = False,
) -> Comparison:
    """
    Compare two answers.

    @param ids: Where two runs made ids of their own, the map that pairs them; it is
        filled on the way.
    @param stream: Compare the first events instead of the whole body.
    """
    if ids is None and _alike(left, right):
        return _IDENTICAL
    found: list[Difference] = []
    if left.status != right.status:
        found.append(Difference(Kind.STATUS, "status", str(left.status), str(right.status)))
    found += _endings(left, right)
    found += compare_headers(left, right, rules, ids)
    tier = Tier.IDENTICAL
    if stream:
        body = compare_events(left, right, rules, ids)
    elif Ending.LEFT in (left.ending, right.ending):
        # Who was cut off by the client could not finish.
        body = []
    else:
        body = compare_bodies(left, right, rules, ids)
    if left.digest != right.digest or left.size != right.size:
        tier = Tier.EQUIVALENT
    found += body
    if left.effects or right.effects:
        found += compare_effects(left.effects, right.effects, rules, ids)
    counted = tuple(each for each in found if not rules.ignores(each.path))
    return Comparison(counted, Tier.DIFFERENT if counted else tier)


def _endings(left: Observation, right: Observation) -> list[Difference]:
    if left.ending is right.ending and left.error == right.error:
        return []
    if left.ending.cut or right.ending.cut:
        return []
    return [
        Difference(
            Kind.ENDING,
            "ending",
            f"{left.ending.value} {left.error}".strip(),
            f"{right.ending.value} {right.error}".strip(),
        )
    ]


def compare_bodies(left: Observation, right: Observation, rules: Rules, ids: IdMap | None) -> list[Difference]:
    """
    All differences between two whole bodies.
    """
    if rules.ignores("body"):
        return []
    if left.truncated or right.truncated:
        return [Difference(Kind.TRUNCATED, "body", f"{left.size} bytes", f"{right.size} bytes")]
    if left.size == right.size and left.digest == right.digest:
        return []
    if not (left.whole and right.whole):
        return [_bytes(left, right)]
    if _is_json(left) or _is_json(right):
        try:
            found = DocumentComparison(rules, ids).compare(parse(left.prefix), parse(right.prefix))
        except (NotJSON, RecursionError):
            return [_bytes(left, right)]
        if not found and rules.strict:
            return [attrs.evolve(_bytes(left, right), kind=Kind.BYTES)]
        return found
    if ids is not None and not rules.strict:
        one, two = left.prefix.decode("latin-1"), right.prefix.decode("latin-1")
        if ids.same_text(one, two):
            return []
    return [_bytes(left, right)]


def _is_json(observation: Observation) -> bool:
    named = normalised(observation).get("content-type")
    if named is not None:
        kind = media_type(named)[0]
        return kind.endswith(("/json", "+json"))
    return observation.prefix[:1] in (b"{", b"[")


def _bytes(left: Observation, right: Observation) -> Difference:
    one, two = left.prefix, right.prefix
    place = next(
        (n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )
    start = max(0, place - 40)
    return Difference(
        Kind.BODY,
        "body",
        f"{left.size} bytes, from {start}: {shown(one[start : place + 160])}",
        f"{right.size} bytes, from {start}: {shown(two[start : place + 160])}",
    )
