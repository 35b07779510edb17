"""
Owns the look-up: a request's method and raw path become one prebuilt L{Decision}.

Patterns are kept in dicts by their number of segments and the places of their
parameters.  Where several match, the one whose leftmost difference is the more
exact wins: a literal before a parameter, a parameter before the rest.  Two that
would tie are refused when the table is built.

The dicts say which place a route has, and know nothing of stages: tables that differ
in stages alone share them (L{RouteTable.moved}), so that a change of stage costs
microseconds, however many routes there are.

Refuses: to change.  A table is made whole and swapped whole (L{Cell}); a request
keeps the decision that it began with.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

import attrs

from bridge.errors import PatternError, RouteConflictError, UnknownRouteError
from bridge.routing.pattern import Literal, Pattern, Rest
from bridge.routing.route import Asks, Decision, Fate, Route, fate
from bridge.routing.stage import Effects

T = TypeVar("T")
_NO_LITERALS = ()


def _nothing(segments: Sequence[bytes]) -> tuple[()]:
    return _NO_LITERALS


@attrs.frozen
class _Shape:
    """
    The patterns with literals in the same places, by those literals; places count from 1.
    """

    key: Callable[[Sequence[bytes]], Any]
    parameters: tuple[int, ...]
    routes: dict[Any, int]


def _kinds(pattern: Pattern) -> tuple[int, ...]:
    # Sorted, this is the order of exactness from the left.
    return tuple(0 if isinstance(s, Literal) else 2 if isinstance(s, Rest) else 1 for s in pattern.segments)


def _shape(kinds: tuple[int, ...]) -> _Shape:
    literals = [place for place, kind in enumerate(kinds, 1) if kind == 0]
    key = operator.itemgetter(*literals) if literals else _nothing
    return _Shape(key, tuple(place for place, kind in enumerate(kinds, 1) if kind == 1), {})


@attrs.frozen
class _Index:
    """
    What one method can reach; routes are numbers.

    @ivar plain: Whole raw paths that name a pattern of literals exactly: such a
        path has no escapes, so it needs no splitting.
    @ivar under: The same for patterns whose only parameter is their last segment, by
        what stands before its slash. Of as many segments, only literals are more exact.
    @ivar shapes: For each number of parts that the slashes make, which is one more than
        there are segments, the shapes that could match, the most exact first.
    @ivar beyond: The same for more parts than any pattern has.
    """

    plain: dict[bytes, int]
    under: dict[bytes, int]
    shapes: tuple[tuple[_Shape, ...], ...]
    beyond: tuple[_Shape, ...]

    def find(self, raw_path: bytes) -> int | None:
        """
        The route of a path that C{plain} hasn't.
        """
        # An escape may spell a literal.
        if raw_path.find(b"%") >= 0:
            segments = [unquote_to_bytes(segment) for segment in raw_path.split(b"/")]
        else:
            head, slash, last = raw_path.rpartition(b"/")
            found = self.under.get(head)
            if found is not None and last and slash:
                return found
            segments = raw_path.split(b"/")
        # What stands before the first slash is nothing, and stays: to take it off costs more.
        if segments[0]:
            return None
        count = len(segments)
        for shape in self.shapes[count] if count < len(self.shapes) else self.beyond:
            found = shape.routes.get(shape.key(segments))
            if found is not None:
                for place in shape.parameters:
                    if not segments[place]:
                        break
                else:
                    return found
        return None


def _index(method: bytes, numbers: Iterable[int], patterns: Sequence[Pattern]) -> _Index:
    plain: dict[bytes, int] = {}
    under: dict[bytes, int] = {}
    made: dict[tuple[int, ...], _Shape] = {}
    for number in numbers:
        pattern = patterns[number]
        kinds = _kinds(pattern)
        if kinds not in made:
            made[kinds] = _shape(kinds)
        shape = made[kinds]
        key = shape.key([b"", *(s.value if isinstance(s, Literal) else b"" for s in pattern.segments)])
        if key in shape.routes:
            other = patterns[shape.routes[key]]
            raise RouteConflictError(other.text, pattern.text, method.decode("ascii"))
        shape.routes[key] = number
        values = [s.value for s in pattern.segments if isinstance(s, Literal)]
        if any(b"/" in value or b"%" in value for value in values):
            continue
        if not any(kinds):
            plain[b"/" + b"/".join(values)] = number
        elif kinds[-1] == 1 and not any(kinds[:-1]):
            under[b"/".join([b"", *values])] = number
    longest = max((len(kinds) for kinds in made), default=0)
    ordered = sorted(made)

    def reach(count: int) -> tuple[_Shape, ...]:
        return tuple(
            made[kinds] for kinds in ordered if len(kinds) == count or (kinds[-1] == 2 and len(kinds) <= count)
        )

    shapes = ((), *(reach(count) for count in range(longest + 1)))
    return _Index(plain, under, shapes, reach(longest + 1))


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
    _fates: tuple[Fate, ...] = attrs.field(repr=False)
    _reads: Fate = attrs.field(repr=False)
    _writes: Fate = attrs.field(repr=False)
    _numbers: Mapping[str, int] = attrs.field(repr=False)

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
        by_method: dict[bytes, list[int]] = {}
        patterns: list[Pattern] = []
        for number, route in enumerate(kept):
            if route.pattern is None:
                raise ValueError("the default route is the `default` argument, not one of the routes")
            patterns.append(route.pattern)
            for method in route.pattern.methods:
                by_method.setdefault(method, []).append(number)
                if method == b"GET":
                    by_method.setdefault(b"HEAD", []).append(number)
        return cls(
            version,
            kept,
            default,
            force_legacy,
            {method: _index(method, numbers, patterns) for method, numbers in by_method.items()},
            tuple(fate(route, force_legacy) for route in kept),
            *_default_fates(default, force_legacy),
            {route.name: number for number, route in enumerate(kept)},
        )

    def moved(self, routes: Iterable[Route], version: int) -> RouteTable:
        """
        This table with these routes, which it has already, standing elsewhere; the
        one without a pattern is the default.

        @raise UnknownRouteError: If it doesn't have one of them.
        """
        kept, fates, default = list(self.routes), list(self._fates), self.default
        reads, writes = self._reads, self._writes
        for route in routes:
            if route.pattern is None:
                default = route
                reads, writes = _default_fates(route, self.force_legacy)
                continue
            number = self._numbers.get(route.name)
            if number is None:
                raise UnknownRouteError(route.name)
            kept[number], fates[number] = route, fate(route, self.force_legacy)
        return attrs.evolve(
            self, version=version, routes=tuple(kept), fates=tuple(fates), default=default, reads=reads, writes=writes
        )

    def decide(self, method: bytes, raw_path: bytes, asks: Asks) -> Decision:
        """
        Who answers this request, and who is only observed.

        @param raw_path: As it came, without the query string.
        """
        index = self._indexes.get(method)
        number: int | None = None
        if index is not None:
            number = index.plain.get(raw_path)
            if number is None:
                number = index.find(raw_path)
        if number is not None:
            found = self._fates[number]
        else:
            found = self._reads if method in (b"GET", b"HEAD") else self._writes
        if found.fixed is not None:
            return found.fixed
        return found.choose(raw_path, asks)

    def route(self, name: str) -> Route:
        """
        The route of that name, which may be written in any way that normalises to it.

        @raise UnknownRouteError: If there is none.
        """
        found = resolve(name, [*self._numbers, self.default.name])
        number = self._numbers.get(found)
        return self.default if number is None else self.routes[number]


def _default_fates(default: Route, force_legacy: bool) -> tuple[Fate, Fate]:
    """
    For reads, and for what nobody declared.
    """
    reads = attrs.evolve(default, effects=Effects.NONE)
    writes = attrs.evolve(default, effects=Effects.EXTERNAL)
    return fate(reads, force_legacy), fate(writes, force_legacy)


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
