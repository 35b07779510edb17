"""
Owns which tick of one side belongs to which of the other, and whether they did the same.

Both sides tell their ticks by key, each in its own order.  Two of one key are a pair.
What either side told before a pair, and the other didn't, is missing there; before the
first pair it is only what one of them began earlier with.

Refuses: clocks.  A tick is missing when the other side has gone past it, however long
that takes.  Refuses also a map of ids: both sides look at the same rows, so that two
keys are the same or they aren't.
"""

from __future__ import annotations

import enum
import json
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

import attrs

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.documents import DocumentComparison, parse
from bridge.parity.observe import Effect
from bridge.parity.rules import Rules
from bridge.routing.stage import Side

MOST = 100
"""
Ticks that wait for the other side at most, and pairs that are remembered.
"""


class Verdict(enum.Enum):
    """
    What came of one tick; the values are the names of counters.
    """

    SAME = "observe.same"
    DIFFERENT = "observe.different"
    MISSING_MODERN = "observe.missing_modern"  # legacy did it, modern would not have
    MISSING_LEGACY = "observe.missing_legacy"  # modern would have done it, legacy did not


@attrs.frozen
class Paired:
    """
    One tick, judged.

    @ivar legacy: What it did; L{None} where it had no such tick.
    @ivar modern: What it would have done.
    """

    tick: str
    verdict: Verdict
    legacy: tuple[Effect, ...] | None
    modern: tuple[Effect, ...] | None
    differences: tuple[Difference, ...] = ()

    def missing(self) -> Difference:
        """
        A tick that one side didn't have, as a difference.
        """
        if self.modern is None:
            return Difference(Kind.MISSING, "tick", shown(self.tick), "")
        return Difference(Kind.ADDED, "tick", "", shown(self.tick))


@attrs.define(eq=False)
class Pairing:
    """
    The ticks of one loop that wait for the other side.
    """

    _waiting: Mapping[Side, dict[str, tuple[Effect, ...]]] = attrs.field(
        factory=lambda: {side: {} for side in Side}, init=False
    )
    _judged: deque[str] = attrs.field(factory=lambda: deque(maxlen=MOST), init=False)
    _aligned: bool = attrs.field(default=False, init=False)

    def waiting(self, side: Side) -> int:
        """
        How many ticks of one side the other hasn't told yet.
        """
        return len(self._waiting[side])

    def told(self, side: Side, tick: str, effects: Iterable[Effect]) -> list[Paired]:
        """
        One side has ticked; what is known by that.  A tick that is told twice counts once.
        """
        mine, others = self._waiting[side], self._waiting[side.other]
        if tick in mine or tick in self._judged:
            return []
        mine[tick] = tuple(effects)
        if tick in others:
            return self._pair(tick)
        if len(mine) <= MOST:
            return []
        oldest = next(iter(mine))
        return [_missing(side, oldest, mine.pop(oldest))]

    def _pair(self, tick: str) -> list[Paired]:
        found: list[Paired] = []
        pair: dict[Side, tuple[Effect, ...]] = {}
        for side, ticks in self._waiting.items():
            for earlier in list(takewhile(lambda each: each != tick, ticks)):
                effects = ticks.pop(earlier)
                if self._aligned:
                    found.append(_missing(side, earlier, effects))
            pair[side] = ticks.pop(tick)
        self._aligned = True
        self._judged.append(tick)
        differences = tuple(compare_ticks(pair[Side.LEGACY], pair[Side.MODERN]))
        verdict = Verdict.DIFFERENT if differences else Verdict.SAME
        return [*found, Paired(tick, verdict, pair[Side.LEGACY], pair[Side.MODERN], differences)]


def _missing(told_by: Side, tick: str, effects: tuple[Effect, ...]) -> Paired:
    if told_by is Side.LEGACY:
        return Paired(tick, Verdict.MISSING_MODERN, effects, None)
    return Paired(tick, Verdict.MISSING_LEGACY, None, effects)


def compare_ticks(legacy: Iterable[Effect], modern: Iterable[Effect]) -> list[Difference]:
    """
    All that two runs of one tick differ in; the order of effects doesn't matter.
    """
    lefts, rights = _by_key(legacy), _by_key(modern)
    found: list[Difference] = []
    for key in [*lefts, *(each for each in rights if each not in lefts)]:
        ones, twos = lefts.get(key, []), rights.get(key, [])
        path = f"effect:{key[0]}:{key[1]}"
        for one, two in zip(ones, twos, strict=False):
            found += DocumentComparison(Rules()).compare(_document(one), _document(two), path)
        found += [Difference(Kind.EFFECT_MISSING, path, shown(one), "") for one in ones[len(twos) :]]
        found += [Difference(Kind.EFFECT_ADDED, path, "", shown(two)) for two in twos[len(ones) :]]
    return found


def _by_key(effects: Iterable[Effect]) -> dict[tuple[str, str], list[Any]]:
    made: dict[tuple[str, str], list[Any]] = {}
    for effect in effects:
        made.setdefault((effect.kind, effect.key), []).append(effect.value)
    return made


def _document(value: Any) -> Any:
    # Through its text, as it would be written; the order of keys is the encoder's affair.
    return parse(json.dumps(value, default=str, sort_keys=True).encode())
