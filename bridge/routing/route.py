"""
Owns what one route may decide: every outcome, made once, before any request.

Refuses: to look anything up (the table does) and to know of a clock, dice or a
request, which the caller answers for through L{Asks}.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import attrs

from bridge.routing.pattern import Pattern
from bridge.routing.stage import BY_CLIENT, Effects, Selector, SelectorKind, Side, Stage

DEFAULT_NAME = "default"


class Asks(Protocol):
    """
    What a decision may want to know of a request; asked only where it matters.

    A protocol object can be its own C{Asks}, so that nothing is made for it.
    """

    def subject(self, selector: Selector) -> bytes:
        """
        The header's, the cookie's or the client's bytes; empty if it has none.
        Path parameters are never asked for: the table has them.
        """

    def dice(self) -> float:
        """
        A number from 0 (included) to 1 (excluded), new each time.
        """


def _pattern(given: Pattern | str | None) -> Pattern | None:
    return Pattern.parse(given) if isinstance(given, str) else given


def _effects(route: Route) -> Effects:
    if route.pattern is not None and route.pattern.reads:
        return Effects.NONE
    return Effects.EXTERNAL


@attrs.frozen
class Route:
    """
    One unit of migration.

    @ivar pattern: Which requests; None for the default route.  Its text is read.
    @ivar weight: Percent of subjects that the canary stage sends to modern.
    @ivar effects: Undeclared, a route of GET alone has none, any other external.
    @ivar sample: Share of requests that are shadowed, 0 to 1; of sandboxed writes all
        are, since a copy that missed one stands elsewhere than its store.
    @ivar selector: What a canary sticks to.
    @ivar salt: Key of the canary's hash; the route's name unless given, so that
        two canaries don't pick the same clients.
    @ivar stream: Whether answers may have no end.
    @ivar name: The match text, normalised.
    """

    pattern: Pattern | None = attrs.field(converter=_pattern)
    stage: Stage = Stage.LEGACY
    weight: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(100)])
    effects: Effects = attrs.field(default=attrs.Factory(_effects, takes_self=True))
    sample: float = attrs.field(default=1.0, validator=[attrs.validators.ge(0), attrs.validators.le(1)])
    selector: Selector = BY_CLIENT
    salt: str = attrs.field(default=attrs.Factory(lambda self: _name(self.pattern), takes_self=True))
    stream: bool = False
    name: str = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: _name(self.pattern), takes_self=True),
    )

    def __attrs_post_init__(self) -> None:
        if self.selector.kind is SelectorKind.PATH and (
            self.pattern is None or self.selector.name not in self.pattern.parameters
        ):
            raise ValueError(f"{self.name} has no parameter {self.selector.name!r}")


def _name(pattern: Pattern | None) -> str:
    return DEFAULT_NAME if pattern is None else pattern.text


@attrs.frozen
class Decision:
    """
    Who answers one request, who is only observed, and why.

    @ivar watched: Whether somebody wants to see the answer: for its shadow, or, where
        nothing may shadow, to judge a canary by its errors.
    """

    route: Route
    answers: Side
    shadows: Side | None
    because: str
    watched: bool = attrs.field(init=False, default=attrs.Factory(lambda self: _watched(self), takes_self=True))


def _watched(decision: Decision) -> bool:
    if decision.shadows is not None:
        return True
    route = decision.route
    return route.effects is Effects.EXTERNAL and route.stage in (Stage.CANARY, Stage.LIVE)


def canary_place(salt: str, subject: bytes) -> int:
    """
    Where a subject stands among 10,000 places: those below C{weight * 100} are
    modern's.  The same for ever, on every process and host.
    """
    key = salt.encode("utf-8")
    if len(key) > 64:  # blake2b takes no longer key
        key = hashlib.blake2b(key, digest_size=32).digest()
    found = hashlib.blake2b(subject, digest_size=8, key=key).digest()
    return int.from_bytes(found, "big") % 10000


@attrs.frozen
class Fate:
    """
    Everything that a route at its stage can come to.

    @ivar fixed: The only outcome, where there is one: no question is asked then.
    @ivar watched: The outcomes with a shadow, by side; C{alone} those without.
    @ivar sample: Share of the requests that are watched.
    """

    route: Route
    fixed: Decision | None
    watched: dict[Side, Decision]
    alone: dict[Side, Decision]
    threshold: int
    place: int
    sample: float = 1.0

    def choose(self, raw_path: bytes, asks: Asks) -> Decision:
        """
        Settle the canary's side and the sample, in that order.
        """
        route = self.route
        side = Side.MODERN if route.stage is Stage.LIVE else Side.LEGACY
        if route.stage is Stage.CANARY and route.selector.kind is SelectorKind.REQUEST:
            if asks.dice() * 10000 < self.threshold:
                side = Side.MODERN
        elif route.stage is Stage.CANARY:
            if self.place >= 0:
                assert route.pattern is not None
                subject = route.pattern.value_at(raw_path, self.place)
            else:
                subject = asks.subject(route.selector)
            # Nobody would be a herd: without a subject, stay.
            if subject and canary_place(route.salt, subject) < self.threshold:
                side = Side.MODERN
        if not self.watched:
            return self.alone[side]
        if self.sample >= 1.0 or asks.dice() < self.sample:
            return self.watched[side]
        return self.alone[side]


_BECAUSE = {
    Stage.LEGACY: "stage legacy: nothing has moved",
    Stage.SHADOW: "stage shadow: legacy answers",
    Stage.CANARY: "stage canary: {side}'s part of the subjects",
    Stage.LIVE: "stage live: modern answers, legacy can take over",
    Stage.MODERN: "stage modern: the move is complete",
    Stage.RETIRED: "stage retired: legacy's code is gone",
}
_SETTLED = {
    Stage.LEGACY: Side.LEGACY,
    Stage.MODERN: Side.MODERN,
    Stage.RETIRED: Side.MODERN,
}


def fate(route: Route, force_legacy: bool = False) -> Fate:
    """
    Make every decision that a route can come to, before any request.

    C{force_legacy} overrides every stage but C{retired}, where legacy has nothing
    left to answer with. A server that starts with it loads no modern application, and
    asks legacy there too.
    """
    if force_legacy and route.stage is not Stage.RETIRED:
        because = "force_legacy is set: legacy answers everything"
        return _fixed(route, Decision(route, Side.LEGACY, None, because))
    if route.stage in _SETTLED:
        side = _SETTLED[route.stage]
        return _fixed(route, Decision(route, side, None, _BECAUSE[route.stage]))
    watched, alone = {}, {}
    for side in Side:
        because = _BECAUSE[route.stage].format(side=side.value)
        if not route.effects.may_shadow:
            note = f"; its effects are {route.effects.value}, so nothing shadows"
        else:
            note = "; not in the sample"
            watched[side] = Decision(route, side, side.other, f"{because}; {side.other.value} is observed")
        alone[side] = Decision(route, side, None, because + note)
    sample = 1.0 if route.effects is Effects.SANDBOXED else route.sample
    if sample <= 0:
        watched = {}
    if route.stage is not Stage.CANARY:
        side = Side.MODERN if route.stage is Stage.LIVE else Side.LEGACY
        if not watched:
            return _fixed(route, alone[side])
        if sample >= 1.0:
            return _fixed(route, watched[side])
    place = -1
    if route.selector.kind is SelectorKind.PATH:
        assert route.pattern is not None
        place = route.pattern.place(route.selector.name)
    return Fate(route, None, watched, alone, round(route.weight * 100), place, sample)


def _fixed(route: Route, decision: Decision) -> Fate:
    return Fate(route, decision, {}, {}, 0, -1)
