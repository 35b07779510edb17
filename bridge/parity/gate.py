"""
Owns the rule: promote, hold or take back, with the reason as a person reads it.

It looks at the counts of one stage under one identity of the code.  In C{legacy} a
route that promotes itself goes into the shadow; in C{shadow} there is nothing to
take back; in C{canary} and C{live} it may be demoted; it is never moved into
C{modern} or C{retired}.

Refuses: to move anything.  Whoever holds the gate's lease does.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import attrs

from bridge.config import GateConfig
from bridge.parity import tally as t
from bridge.parity.sequential import Answer, ShareTest, SplitTest
from bridge.parity.tally import Tally
from bridge.parity.verdict import MOST
from bridge.routing import Effects, Stage

# Pairs whose effects differ until a route is taken back, whatever the test says.
UNDONE = 2
# The share of pairs that must be slower, beside the test of their direction: on a busy
# loop whoever awaits more often waits longer now and then.
SLOW = 0.2
_ANEW = "the evidence starts anew when the code changes, or with `bgctl set ROUTE shadow --why TEXT`"


class Action(enum.Enum):
    """
    What the gate would have done.
    """

    PROMOTE = "promote"
    HOLD = "hold"
    DEMOTE = "demote"


@attrs.frozen
class Ruling:
    """
    What follows from the evidence, and why.

    @ivar to: The stage that a move would lead to; None for hold.
    @ivar passing: Whether the evidence allows one step forward, whoever takes it.
    @ivar rejected: Whether the test has said no for this code, which is to be kept.
    """

    action: Action
    why: str
    to: Stage | None = None
    passing: bool = False
    rejected: bool = False


TAKEN_BACK = Ruling(Action.HOLD, "a person took it back: only a person starts its shadow again", passing=True)
"""
What a gate says of a route that a person has sent to legacy, whatever it may do by itself.
"""


@attrs.frozen
class Gate:
    """
    The rule, with its figures.
    """

    config: GateConfig = attrs.field(factory=GateConfig)

    @property
    def share(self) -> ShareTest:
        """
        The test that lets a route go forward.
        """
        c = self.config
        return ShareTest(c.p0, c.p1, c.alpha, c.beta)

    @property
    def split(self) -> SplitTest:
        """
        The test that takes a route back.
        """
        c = self.config.rollback
        return SplitTest(c.p0, c.p1, c.alpha, c.beta)

    def rule(
        self,
        stage: Stage,
        tally: Tally,
        effects: Effects = Effects.NONE,
        outcomes: Sequence[int] = (),
        auto: bool = False,
        walk: float = 0.0,
        breach: str = "",
    ) -> Ruling:
        """
        Say what follows from what is known.

        @param walk: The evidence of the test that takes back, as it stands.
        @param breach: What guarantee is broken, if one is.
        """
        if stage in (Stage.CANARY, Stage.LIVE):
            back = self._back(tally, effects, walk, breach)
            if back is not None:
                return back
        if stage is Stage.LEGACY:
            return self._begin(tally, effects, auto)
        if stage in (Stage.MODERN, Stage.RETIRED):
            return Ruling(Action.HOLD, "the move is complete; only a person moves it now")
        if breach:
            return Ruling(Action.HOLD, f"a guarantee is broken: {breach}")
        if effects is Effects.EXTERNAL:
            lacks, rejected = self._external(stage, tally)
        else:
            lacks, rejected = self._lacks(tally, outcomes)
        if lacks:
            return Ruling(Action.HOLD, lacks, rejected=rejected)
        if stage is Stage.LIVE:
            return Ruling(Action.HOLD, "the evidence passes; a person makes it final", passing=True)
        to = stage.next
        assert to is not None
        if not auto:
            return Ruling(Action.HOLD, f"the evidence passes for {to.value}", passing=True)
        return Ruling(Action.PROMOTE, self._passed(tally, effects), to, passing=True)

    def _back(self, tally: Tally, effects: Effects, walk: float, breach: str) -> Ruling | None:
        if breach:
            why = f"a guarantee is broken: {breach}"
        elif tally[t.EFFECTS_DIFFER] >= UNDONE:
            # What was done twice, or not at all, is not undone by more evidence.
            why = f"its effects differ in {tally[t.EFFECTS_DIFFER]} pairs"
        elif self.split.condemns(walk):
            why = (
                f"modern differs where legacy agrees with itself: {tally[t.AGAINST]} pairs against {tally[t.IN_FAVOUR]}"
            )
        elif effects is Effects.EXTERNAL and self._fails(tally):
            why = f"{tally[t.ERRORS]} of {tally[t.ANSWERS]} answers were errors"
        else:
            return None
        return Ruling(Action.DEMOTE, why, Stage.LEGACY)

    def _begin(self, tally: Tally, effects: Effects, auto: bool) -> Ruling:
        if effects is Effects.EXTERNAL:
            return Ruling(Action.HOLD, "its effects are external: only a person starts its canary")
        if tally.rejected:
            return Ruling(Action.HOLD, f"taken back with this code; {_ANEW}")
        if not auto:
            return Ruling(Action.HOLD, "promote is manual: a person starts its shadow", passing=True)
        return Ruling(Action.PROMOTE, "promote is auto, and a shadow changes nothing", Stage.SHADOW, True)

    def _external(self, stage: Stage, tally: Tally) -> tuple[str, bool]:
        if stage is Stage.SHADOW:
            return "its effects are external: nothing can shadow it", False
        if not tally[t.ANSWERS]:
            return f"inconclusive: no answer of modern's yet{_unasked(tally[t.BASE_ANSWERS])}", False
        test, errors = self._errors(tally), tally[t.ERRORS]
        clean = tally[t.ANSWERS] - errors
        if test.answer(clean, errors) is Answer.OPEN:
            return f"needs {test.needs(clean, errors)} more answers without an error", False
        return self._time(tally), False

    def _errors(self, tally: Tally) -> ShareTest:
        # Legacy's own errors are no fault of modern's: where it has more than p0, its
        # share is what counts as good, and p1 lies as far above it.
        c = self.config
        base = tally[t.BASE_ERRORS] / tally[t.BASE_ANSWERS] if tally[t.BASE_ANSWERS] else 0.0
        p0 = min(max(c.p0, base), 0.9)
        return ShareTest(p0, min(p0 + c.p1 - c.p0, 0.99), c.alpha, c.beta)

    def _fails(self, tally: Tally) -> bool:
        errors = tally[t.ERRORS]
        return self._errors(tally).answer(tally[t.ANSWERS] - errors, errors) is Answer.BAD

    def _lacks(self, tally: Tally, outcomes: Sequence[int]) -> tuple[str, bool]:
        """
        What the evidence lacks; empty if nothing.
        """
        c = self.config
        clean, mismatches = tally[t.SAME], tally[t.DIFFERENT]
        if tally.rejected or self.share.answer(clean, mismatches) is Answer.BAD:
            # A no may come from another stage, where what differed was counted.
            found = f": {mismatches} of {clean + mismatches} pairs differ" if mismatches else " before, with this code"
            return f"rejected{found}; {_ANEW}", True
        if not tally.pairs:
            former = "the evidence starts anew with this code: " if tally.former else "inconclusive: "
            went_by = "".join(f"; {count} went by: {why}" for why, count in tally.unseen.items())
            return f"{former}no traffic has been compared yet{went_by}", False
        needs = self.share.needs(clean, mismatches)
        if needs:
            noise = f"; {tally[t.NOISE]} were noise" if tally[t.NOISE] else ""
            return f"needs {needs} more pair{'s' * (needs != 1)}{noise}", False
        short = c.aa - tally.total_aa
        if short > 0:
            return f"needs {short} more A/A pair{'s' * (short != 1)}", False
        for outcome in outcomes:
            missing = c.seen - tally.seen(outcome)
            if missing > 0:
                return f"needs {missing} more pair{'s' * (missing != 1)} with status {outcome}", False
        missing = c.seen - tally[t.BY_MODERN]
        if tally.stage == Stage.CANARY.value and missing > 0:
            # A canary of weight 0 has shown nothing that its shadow hadn't.
            none = "" if tally[t.BY_MODERN] else _unasked(tally.pairs)
            return f"needs {missing} more request{'s' * (missing != 1)} that modern answers{none}", False
        slow = self.split.of_counts(tally[t.SLOWER], tally[t.FASTER])
        if self.split.condemns(slow) and tally[t.SLOWER] - tally[t.FASTER] > SLOW * tally.pairs:
            return (
                f"modern is slower: in {tally[t.SLOWER]} of {tally.pairs} pairs, faster in {tally[t.FASTER]}",
                False,
            )
        stalls = self.split.of_counts(tally[t.STALLED], tally[t.UNSTALLED])
        if self.split.condemns(stalls) and tally[t.STALLED] - tally[t.UNSTALLED] > c.p1 * tally.pairs:
            return (
                f"modern keeps clients waiting: in {tally[t.STALLED]} of {tally.pairs} pairs it takes "
                f"{MOST * 1000:.0f} milliseconds longer and more",
                False,
            )
        unlike = tally.unlike
        unseen = sum(unlike.values())
        if unseen > c.p1 * (tally.pairs + unseen):
            # As many could all be wrong, and the pairs that there are would look the same.
            why = "; ".join(f"{count}: {t.UNLIKE[name]}" for name, count in unlike.items())
            return (
                f"{unseen} of {tally.pairs + unseen} requests could not be compared ({why}), "
                "and the others say nothing of them: a person decides, with --force",
                False,
            )
        return self._time(tally), False

    def _time(self, tally: Tally) -> str:
        left = self.config.floor - tally.seconds
        # Rounded up: what is left is never "0 more seconds".
        return f"needs {math.ceil(left)} more seconds at this stage" if left > 0 else ""

    def _passed(self, tally: Tally, effects: Effects) -> str:
        if effects is Effects.EXTERNAL:
            return f"{tally[t.ERRORS]} errors in {tally[t.ANSWERS]} answers"
        return (
            f"{tally[t.SAME]} pairs the same, {tally[t.DIFFERENT]} different, {tally[t.NOISE]} noise, "
            f"{tally.total_aa} A/A"
        )


def _unasked(requests: int) -> str:
    """
    Why a canary waits whose requests all went to legacy; a subject keeps its side, so
    more of the same clients change nothing.
    """
    if not requests:
        return ""
    return (
        f": it answered none of {requests}, since all their subjects fell to legacy. If few distinct clients ask, "
        "raise the weight, choose another canary.subject (\"request\" draws lots for each request, for a service with "
        "one caller), or name your proxies in trusted_proxies"
    )
