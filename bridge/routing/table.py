"""
Owns the look-up: a request's method and raw path become one prebuilt L{Decision}.

Patterns are kept in dicts by their number of segments and the places of their
parameters.  Where several match, the one whose leftmost difference is the more
exact wins: a literal before a parameter, a parameter before the rest.  Two that
would tie are refused when the table is built.

Refuses: to change.  A table is made whole and swapped whole (L{Cell}); a request
keeps the decision that it began with.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs

from bridge.errors import PatternError, RouteConflictError, UnknownRouteError
from bridge.routing.pattern import Literal, Pattern, Rest, split
from bridge.routing.route import Asks, Decision, Fate, Route, fate
from bridge.routing.stage import Effects

T = TypeVar("T")
_NO_LITERALS = ()


def _nothing(segments: Sequence[bytes]) -> tuple[()]:
    return _NO_LITERALS


@attrs.frozen
class _Shape:
    """
    The patterns with literals in the same places, by those literals.
    """

    key: Callable[[Sequence[bytes]], Any]
    places: tuple[int, ...]
    fates: dict[Any, Fate]


def _kinds(pattern: Pattern) -> tuple[int, ...]:
    # Sorted, this is the order of exactness from the left.
    return tuple(0 if isinstance(s, Literal) else 2 if isinstance(s, Rest) else 1 for s in pattern.segments)


def _shape(kinds: tuple[int, ...]) -> _Shape:
    literals = [place for place, kind in enumerate(kinds) if kind == 0]
    key = operator.itemgetter(*literals) if literals else _nothing
    places = tuple(place for place, kind in enumerate(kinds) if kind == 1)
    return _Shape(key, places, {})


@attrs.frozen
class _Index:
    """
    What one method can reach.

    @ivar plain: Whole raw paths that name a pattern of literals exactly: such a
        path has no escapes, so it needs no splitting.
    @ivar shapes: For each number of segments, the shapes that could match, the
        most exact first.
    @ivar beyond: The same for more segments than any pattern has.
    """

    plain: dict[bytes, Fate]
    shapes: tuple[tuple[_Shape, ...], ...]
    beyond: tuple[_Shape, ...]

    def find(self, segments: Sequence[bytes]) -> Fate | None:
        count = len(segments)
        shapes = self.shapes[count] if count < len(self.shapes) else self.beyond
        empty = b"" in segments
        for shape in shapes:
            found = shape.fates.get(shape.key(segments))
            if found is None:
                continue
            if empty and not all(segments[place] for place in shape.places):
                continue
            return found
        return None


def _index(method: bytes, routes: Iterable[tuple[Route, Fate]]) -> _Index:
    plain: dict[bytes, Fate] = {}
    made: dict[tuple[int, ...], _Shape] = {}
    for route, fated in routes:
        pattern = route.pattern
        assert pattern is not None
        kinds = _kinds(pattern)
        if kinds not in made:
            made[kinds] = _shape(kinds)
        shape = made[kinds]
        key = shape.key([s.value if isinstance(s, Literal) else b"" for s in pattern.segments])
        if key in shape.fates:
            other = shape.fates[key].route.name
            raise RouteConflictError(other, route.name, method.decode("ascii"))
        shape.fates[key] = fated
        if not any(kinds):
            values = [s.value for s in pattern.segments if isinstance(s, Literal)]
            if not any(b"/" in value or b"%" in value for value in values):
                plain[b"/" + b"/".join(values)] = fated
    longest = max((len(kinds) for kinds in made), default=0)
    ordered = sorted(made)

    def reach(count: int) -> tuple[_Shape, ...]:
        return tuple(
            made[kinds] for kinds in ordered if len(kinds) == count or (kinds[-1] == 2 and len(kinds) <= count)
        )

    shapes = tuple(reach(count) for count in range(longest + 1))
    return _Index(plain, shapes, reach(longest + 1))


@attrs.frozen(eq=False)
class RouteTable:
    """
    All routes at their stages, ready to decide.

    @ivar version: The state's change counter that this table was made from.
    """

    version: int
    routes: tuple[Route, ...]
    default: Route
    force_legacy: bool
    _indexes: Mapping[bytes, _Index] = attrs.field(repr=False)
    _reads: Fate = attrs.field(repr=False)
    _writes: Fate = attrs.field(repr=False)
    _names: Mapping[str, Route] = attrs.field(repr=False)

    @classmethod
    def build(
        cls,
        routes: Iterable[Route],
        default: Route | None = None,
        version: int = 0,
        force_legacy: bool = False,
    ) -> RouteTable:
        """
        Make the table; every decision it can give exists when this returns.

        @param default: What answers where no route matches; its stage and sample
            count, and it shadows reads alone.
        @raise RouteConflictError: If two routes match the same requests.
        """
        kept = tuple(routes)
        if default is None:
            default = Route(None)
        by_method: dict[bytes, list[tuple[Route, Fate]]] = {}
        for route in kept:
            if route.pattern is None:
                raise ValueError("the default route is the `default` argument, not one of the routes")
            fated = fate(route, force_legacy)
            for method in route.pattern.methods:
                by_method.setdefault(method, []).append((route, fated))
                if method == b"GET":
                    by_method.setdefault(b"HEAD", []).append((route, fated))
        indexes = {method: _index(method, found) for method, found in by_method.items()}
        names = {route.name: route for route in kept}
        names[default.name] = default
        reads = attrs.evolve(default, effects=Effects.NONE)
        writes = attrs.evolve(default, effects=Effects.EXTERNAL)
        return cls(
            version,
            kept,
            default,
            force_legacy,
            indexes,
            fate(reads, force_legacy),
            fate(writes, force_legacy),
            names,
        )

    def decide(self, method: bytes, raw_path: bytes, asks: Asks) -> Decision:
        """
        Who answers this request, and who is only observed.

        @param raw_path: As it came, without the query string.
        """
        index = self._indexes.get(method)
        found: Fate | None = None
        segments: Sequence[bytes] = ()
        if index is not None:
            found = index.plain.get(raw_path)
            if found is None and raw_path[:1] == b"/":
                segments = split(raw_path)
                found = index.find(segments)
        if found is None:
            found = self._reads if method in (b"GET", b"HEAD") else self._writes
        if found.fixed is not None:
            return found.fixed
        return found.choose(segments, asks)

    def route(self, name: str) -> Route:
        """
        The route of that name, which may be written in any way that normalises to it.

        @raise UnknownRouteError: If there is none.
        """
        return self._names[resolve(name, self._names)]


def resolve(name: str, names: Iterable[str]) -> str:
    """
    The one of these names that somebody meant.

    @raise UnknownRouteError: If none is it; the nearest is named.
    """
    known = list(names)
    if name in known:
        return name
    try:
        text = Pattern.parse(name).text
    except PatternError:
        text = name
    if text in known:
        return text
    nearest = difflib.get_close_matches(text, known, n=1)
    raise UnknownRouteError(name, nearest[0] if nearest else None)


@attrs.define
class Cell(Generic[T]):
    """
    One place for a value that is replaced whole: read it once for each request.
    """

    value: T

    def swap(self, new: T) -> T:
        """
        Put a new value in; the old one comes back.
        """
        old, self.value = self.value, new
        return old
