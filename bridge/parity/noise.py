"""
Owns what the A/A runs of a route show to differ by itself, and what rules that
suggests.

Refuses: to apply any.  A proposal has an owner and an expiry, and counts when
somebody has put it into the policy or accepted it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs

from bridge.parity.differences import Difference
from bridge.parity.rules import Agreed


@attrs.frozen
class Proposal:
    """
    A rule that would leave a noisy place out.

    @ivar share: Of all A/A pairs, how many differed there.
    @ivar expires: Wall-clock seconds; after that it must be agreed on anew.
    """

    rule: str
    owner: str
    expires: float
    share: float
    pairs: int

    def accepted(self, owner: str) -> Agreed:
        """
        The rule that this becomes under somebody's name.
        """
        return Agreed(self.rule, owner, self.expires)


@attrs.define
class Noise:
    """
    What one route's answering side differs from itself in.

    @ivar most: Places that are kept apart; more than that is no noise but chaos.
    """

    most: int = 200
    pairs: int = 0
    places: Counter[str] = attrs.field(factory=Counter)

    def saw(self, differences: Iterable[Difference]) -> None:
        """
        Count one A/A pair.
        """
        self.pairs += 1
        for place in {each.place for each in differences}:
            if place in self.places or len(self.places) < self.most:
                self.places[place] += 1

    def proposals(self, owner: str, now: float, calibrated: int = 200, days: float = 30.0) -> list[Proposal]:
        """
        The rules that these pairs suggest, the noisiest first; none before there
        are enough of them.
        """
        if self.pairs < calibrated:
            return []
        expires = now + days * 86400
        return [
            Proposal(place, owner, expires, count / self.pairs, self.pairs)
            for place, count in self.places.most_common()
        ]
