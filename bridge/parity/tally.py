"""
Owns the counts of one route's evidence: additive, so that several processes may add
to one sum, and kept for ever.

Names are C{stage.what}, since what was seen in one stage is no evidence for another:
C{shadow.same}, C{shadow.aa}, C{canary.seen:404} …

Refuses: to keep anything that isn't a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from bridge.parity.compare import Tier
from bridge.parity.verdict import Discord, Judged, Verdict, effects_differ

SAME, NOISE, DIFFERENT = "same", "noise", "different"
AA, AA_DIFFERENT = "aa", "aa_different"
AGAINST, IN_FAVOUR = "against", "in_favour"
SLOWER, FASTER = "slower", "faster"
STALLED, UNSTALLED = "stalled", "unstalled"
ANSWERS, ERRORS = "answers", "errors"
BASE_ANSWERS, BASE_ERRORS = "base_answers", "base_errors"
IDENTICAL = "identical"
BY_MODERN = "by_modern"
EFFECTS_DIFFER = "effects_differ"
# Why requests went by unseen that are not like the others; what is dropped because too
# much waits is a sample of all.
UNLIKE = {
    "long_body": "their bodies are too long",
    "unread_body": "their bodies were left unread",
    "foreign": "only legacy understands them",
    "unjudged": "comparing their answers failed",
}
# Why the others went by. Where nothing is compared at all, somebody has to be told.
OTHERWISE = {
    "full": "too many waited",
    "heavy": "what waited held too many bytes",
    "open": "the shadows ran out of time again and again",
    "unseeded": "the copies of the stores were not ready, and the server's log says why if that lasts",
    "absent": "there was nothing to shadow with",
}
# Without a stage, and always 0: its row says since when which code runs.
STARTED = "started"
# Without a stage: a no holds for this code wherever its route stands.
REJECTED = "rejected"


def counts_of(judged: Judged, stage: str) -> Counter[str]:
    """
    What one judged request adds.
    """
    names = [judged.verdict.value]
    if judged.tier is Tier.IDENTICAL:
        names.append(IDENTICAL)
    if judged.by_modern:
        names.append(BY_MODERN)
    if judged.noise is not None:
        names.append(AA)
        if judged.noise:
            names.append(AA_DIFFERENT)
    if judged.discord is not Discord.NONE:
        names.append(judged.discord.value)
    if judged.verdict is Verdict.DIFFERENT and effects_differ(judged.differences):
        names.append(EFFECTS_DIFFER)
    if judged.slower:
        names.append(SLOWER if judged.slower > 0 else FASTER)
    if judged.stalled:
        names.append(STALLED if judged.stalled > 0 else UNSTALLED)
    if judged.outcome is not None and judged.verdict is not Verdict.DIFFERENT:
        names.append(f"seen:{judged.outcome}")
    return Counter([f"{stage}.{name}" for name in names])


@attrs.frozen
class Tally:
    """
    The counts of one route, at one stage, under one identity of its code.

    @ivar seconds: How long the stage has lasted.
    @ivar former: Whether there is evidence of other code, which doesn't count.
    """

    counts: Mapping[str, int] = attrs.field(factory=dict)
    stage: str = "shadow"
    seconds: float = 0.0
    former: bool = False

    def __getitem__(self, name: str) -> int:
        return self.counts.get(f"{self.stage}.{name}", 0)

    @property
    def pairs(self) -> int:
        """
        Pairs with a verdict.
        """
        return self[SAME] + self[NOISE] + self[DIFFERENT]

    @property
    def unlike(self) -> dict[str, int]:
        """
        How many requests went by unseen for what they are, by the reason.
        """
        return self._dropped(UNLIKE)

    @property
    def unseen(self) -> dict[str, int]:
        """
        How many requests went by unseen, by the reason in words.
        """
        reasons = UNLIKE | OTHERWISE
        return {reasons[why]: count for why, count in self._dropped(reasons).items()}

    def _dropped(self, reasons: Iterable[str]) -> dict[str, int]:
        return {why: self[f"dropped:{why}"] for why in reasons if self[f"dropped:{why}"]}

    @property
    def rejected(self) -> bool:
        """
        Whether this code was refused or taken back before.
        """
        return self.counts.get(REJECTED, 0) > 0

    def seen(self, outcome: int) -> int:
        """
        How often an outcome was compared and found the same.
        """
        return self[f"seen:{outcome}"]

    @property
    def total_aa(self) -> int:
        """
        A/A pairs of all stages: calibration isn't lost at a promotion.
        """
        return sum(n for name, n in self.counts.items() if name.partition(".")[2] == AA)
