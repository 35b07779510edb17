"""
Owns the circuit of each route's shadows: after several in a row ran out of time, or
flooded, none is tried for a while, and then one.

Refuses: to know what an answer was; a wrong answer is evidence, not a fault.
"""

from __future__ import annotations

import attrs

from bridge.parity.observe import Ending

_SPENT = (Ending.DEADLINE, Ending.FLOODED)


@attrs.define
class _Circuit:
    spent: int = 0
    retry_at: float | None = None


@attrs.define(eq=False)
class Circuits:
    """
    All circuits, by the route's name.

    @ivar after: How many in a row open it.
    @ivar pause: Seconds until the next is tried.
    """

    after: int = 5
    pause: float = 30.0
    _by_route: dict[str, _Circuit] = attrs.field(factory=dict)

    def allows(self, route: str, at: float) -> bool:
        """
        Whether a shadow of that route may run; an open circuit lets one through
        when its pause is over.
        """
        circuit = self._by_route.get(route)
        if circuit is None or circuit.retry_at is None:
            return True
        if at < circuit.retry_at:
            return False
        circuit.retry_at = at + self.pause
        return True

    def ended(self, route: str, ending: Ending, at: float) -> None:
        """
        A shadow of that route ended.
        """
        if ending not in _SPENT:
            self._by_route.pop(route, None)
            return
        circuit = self._by_route.setdefault(route, _Circuit())
        circuit.spent += 1
        if circuit.spent >= self.after:
            circuit.retry_at = at + self.pause

    def is_open(self, route: str) -> bool:
        """
        Whether that route's shadows are left alone at present.
        """
        circuit = self._by_route.get(route)
        return circuit is not None and circuit.retry_at is not None
