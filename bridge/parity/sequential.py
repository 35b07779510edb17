"""
Owns the two sequential tests: the one that lets a route go forward, and the one that
takes it back.  Both may be looked at after every pair, which is what they are for:
A. Wald, Sequential Tests of Statistical Hypotheses (1945).

Refuses: to draw a sample, to know time, and to say what follows (the gate does).
"""

from __future__ import annotations

import enum
import math

import attrs

# Wald's bounds promise errors near alpha and beta, not below them: with the defaults
# they come to 2.3 % and 5.11 %.  With the upper one drawn in by this factor both are
# below 5 % (4.76 % and 4.99 %, computed and not sampled; a test does it again).
DRAWN_IN = 0.6113


class Answer(enum.Enum):
    """
    What a sequential test says so far.
    """

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


@attrs.frozen
class ShareTest:
    """
    Whether the share of mismatches is as low as p0, or as high as p1.

    @ivar alpha: The risk of calling a good route bad; C{beta} the other way round.
    """

    p0: float = 0.001
    p1: float = 0.01
    alpha: float = 0.05
    beta: float = 0.05

    @property
    def _clean(self) -> float:
        return math.log((1 - self.p1) / (1 - self.p0))

    @property
    def _mismatch(self) -> float:
        return math.log(self.p1 / self.p0)

    @property
    def _lower(self) -> float:
        return math.log(self.beta / (1 - self.alpha))

    @property
    def _upper(self) -> float:
        return DRAWN_IN * math.log((1 - self.beta) / self.alpha)

    def evidence(self, clean: int, mismatches: int) -> float:
        """
        The logarithm of how much likelier p1 makes these counts than p0.
        """
        return clean * self._clean + mismatches * self._mismatch

    def answer(self, clean: int, mismatches: int) -> Answer:
        """
        What these counts say.  One mismatch alone is never enough to condemn.

        Whoever watches must keep the first answer that isn't open: a test that has
        said no and goes on until it says yes is no test.
        """
        evidence = self.evidence(clean, mismatches)
        if evidence <= self._lower:
            return Answer.GOOD
        if mismatches >= 2 and evidence >= self._upper:
            return Answer.BAD
        return Answer.OPEN

    def needs(self, clean: int, mismatches: int) -> int:
        """
        How many more clean pairs make it good.
        """
        short = self.evidence(clean, mismatches) - self._lower
        return max(0, math.ceil(short / -self._clean))


@attrs.frozen
class SplitTest:
    """
    How discordant pairs split: by chance (p0, one half), or mostly against modern (p1).

    A pair is discordant where one of two comparisons of the same request differs and
    the other doesn't: legacy with legacy, and legacy with modern.
    """

    p0: float = 0.5
    p1: float = 0.9
    alpha: float = 0.01
    beta: float = 0.01

    @property
    def _against(self) -> float:
        return math.log(self.p1 / self.p0)

    @property
    def _for(self) -> float:
        return math.log((1 - self.p1) / (1 - self.p0))

    @property
    def _upper(self) -> float:
        return math.log((1 - self.beta) / self.alpha)

    def after(self, evidence: float, against: bool) -> float:
        """
        The evidence after one more discordant pair.

        It never falls further than twice the lower bound: a long good past must not
        pay for a bad present (Page's cumulative sum), and with the bound itself as
        the floor a flaky route would be taken back too often.
        """
        lowest = 2 * math.log(self.beta / (1 - self.alpha))
        return max(lowest, evidence + (self._against if against else self._for))

    def condemns(self, evidence: float) -> bool:
        """
        Whether that much evidence takes a route back.
        """
        return evidence >= self._upper

    def of_counts(self, against: int, in_favour: int) -> float:
        """
        The evidence of these counts, taken together.
        """
        return against * self._against + in_favour * self._for
