"""
Owns the comparison of two JSON documents, by path.

Kept apart are null and missing, int and float, string and number, the order of keys
and of elements, and keys that stand twice.

Refuses: to recurse, so that nesting costs no stack; and to go on past a number of
differences, which it counts all the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.ids import IdMap
from bridge.parity.rules import Rules

# As ISO 8601, and as mails and HTTP write it.
_MOMENT = re.compile(
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?(?!\d)"
    r"|\b[A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (?:GMT|[+-]\d{4})\b"
)
_DIGITS = re.compile(r"\d")
_PLAIN = re.compile(r"[^.\[\]]+\Z")


class NotJSON(ValueError):
    """
    Bytes that are no JSON document.
    """


@attrs.frozen(eq=False)
class Members:
    """
    An object as it stood there: its keys in order, each as often as it came.
    """

    pairs: tuple[tuple[str, Any], ...]

    @property
    def last(self) -> dict[str, Any]:
        """
        As every parser reads it: of keys that stand twice, the last.
        """
        return dict(self.pairs)


def parse(data: bytes) -> Any:
    """
    A document, its objects as L{Members}.

    @raise NotJSON: If it isn't one.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=lambda pairs: Members(tuple(pairs)))
    except (ValueError, RecursionError) as e:
        raise NotJSON(str(e)) from None


def plain(value: Any) -> Any:
    """
    A parsed document as common dicts and lists, for showing.
    """
    if isinstance(value, Members):
        return {key: plain(each) for key, each in value.pairs}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def _step(path: str, key: str) -> str:
    return f"{path}.{key}" if _PLAIN.match(key) else f"{path}[{json.dumps(key)}]"


@attrs.define
class DocumentComparison:
    """
    One comparison of two documents.

    @ivar ids: The map of ids, where two runs made their own; None where ids must be
        equal.
    """

    rules: Rules
    ids: IdMap | None = None
    found: list[Difference] = attrs.field(factory=list)

    def compare(self, left: Any, right: Any, path: str = "$") -> list[Difference]:
        """
        All differences, in the order of the documents.
        """
        work: list[tuple[str, Any, Any]] = [(path, left, right)]
        while work:
            place, one, two = work.pop()
            if self.rules.ignores(place):
                continue
            below: list[tuple[str, Any, Any]] = []
            if isinstance(one, Members) and isinstance(two, Members):
                below = self._objects(place, one, two)
            elif isinstance(one, list) and isinstance(two, list):
                below = self._arrays(place, one, two)
            else:
                self._values(place, one, two)
            work.extend(reversed(below))
        return self.found

    def _add(self, kind: Kind, path: str, left: Any, right: Any) -> None:
        if not self.rules.ignores(path):
            self.found.append(Difference(kind, path, _excerpt(left), _excerpt(right)))

    def _objects(self, path: str, one: Members, two: Members) -> list[tuple[str, Any, Any]]:
        lefts, rights = one.last, two.last
        for key, count in Counter(key for key, _ in one.pairs).items():
            if count > 1 and count != sum(1 for other, _ in two.pairs if other == key):
                self._add(Kind.DUPLICATE_KEY, _step(path, key), f"{count} times", _NOTHING)
        for key, count in Counter(key for key, _ in two.pairs).items():
            if count > 1 and count != sum(1 for other, _ in one.pairs if other == key):
                self._add(Kind.DUPLICATE_KEY, _step(path, key), _NOTHING, f"{count} times")
        below = []
        for key, value in lefts.items():
            step = _step(path, key)
            if key in rights:
                below.append((step, value, rights[key]))
            elif value is None:
                self._add(Kind.NULL_OR_MISSING, step, None, _NOTHING)
            else:
                self._add(Kind.MISSING, step, value, _NOTHING)
        for key, value in rights.items():
            if key not in lefts:
                kind = Kind.NULL_OR_MISSING if value is None else Kind.ADDED
                self._add(kind, _step(path, key), _NOTHING, value)
        shared = [key for key in lefts if key in rights]
        if shared != [key for key in rights if key in lefts]:
            self._add(Kind.ORDER, path, list(lefts), list(rights))
        return below

    def _arrays(self, path: str, one: list[Any], two: list[Any]) -> list[tuple[str, Any, Any]]:
        if len(one) != len(two):
            self._add(Kind.LENGTH, path, len(one), len(two))
        else:
            lefts, rights = [_canonical(v) for v in one], [_canonical(v) for v in two]
            if lefts != rights and Counter(lefts) == Counter(rights):
                self._add(Kind.ORDER, path, one, two)
                return []
        return [(f"{path}[{place}]", a, b) for place, (a, b) in enumerate(zip(one, two, strict=False))]

    def _values(self, path: str, one: Any, two: Any) -> None:
        if type(one) is type(two):
            if one == two or (one != one and two != two):
                if self.ids is not None and isinstance(one, str) and not self.ids.same_text(one, two):
                    self._add(Kind.ID, path, one, two)
                return
            if isinstance(one, str):
                if self._same_text(path, one, two):
                    return
            elif not isinstance(one, bool) and self._same_number(path, one, two):
                return
            self._add(Kind.VALUE, path, one, two)
        elif _is_number(one) and _is_number(two):
            if one == two:
                self._add(Kind.INT_OR_FLOAT, path, one, two)
            elif not self._same_number(path, one, two):
                self._add(Kind.VALUE, path, one, two)
        elif {type(one), type(two)} in ({str, int}, {str, float}):
            self._add(Kind.STRING_OR_NUMBER, path, one, two)
        else:
            self._add(Kind.TYPE, path, one, two)

    def _same_text(self, path: str, one: str, two: str) -> bool:
        if self.rules.moments:
            lefts, rights = _MOMENT.findall(one), _MOMENT.findall(two)
            if len(lefts) == len(rights) and all(map(self._near, lefts, rights)):
                one, two = _MOMENT.sub("\0", one), _MOMENT.sub("\0", two)
        return one == two or (self.ids is not None and self.ids.same_text(one, two))

    def _near(self, one: str, two: str) -> bool:
        return one == two or _near(one, two, self.rules.moments)

    def _same_number(self, path: str, one: Any, two: Any) -> bool:
        both = isinstance(one, int) and isinstance(two, int)
        if both and self.ids is not None and self.ids.same_number(one, two, path):
            return True
        far = self.rules.tolerance(path)
        try:
            return far > 0 and abs(one - two) <= far
        except OverflowError:
            return False  # an integer that is larger than any float


_NOTHING = object()


def _excerpt(value: Any) -> str:
    if value is _NOTHING:
        return ""
    return shown(plain(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _canonical(value: Any) -> str:
    # Types stay apart, as 1 and 1.0 do in their text.
    if isinstance(value, Members):
        inner = ",".join(f"{k!r}:{_canonical(v)}" for k, v in value.pairs)
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(value)


def timeless(text: str) -> str:
    """
    A text without its times.
    """
    return _MOMENT.sub("", text)


def moments_replaced(text: str, when: Callable[[datetime], bool]) -> str:
    """
    A text in which the times that C{when} is true of are one and the same; others, and
    what only looks like a time, stand as they did.
    """

    def same(found: re.Match[str]) -> str:
        try:
            moment = _moment(found.group())
        except (ValueError, TypeError):
            return found.group()
        return "\0" if when(moment) else found.group()

    return _MOMENT.sub(same, text)


def _moment(text: str) -> datetime:
    return parsedate_to_datetime(text) if text[:1].isalpha() else datetime.fromisoformat(text)


def _near(one: str, two: str, seconds: float) -> bool:
    """
    Whether two times are written the same way, and lie near each other.
    """
    try:
        if not one[:1].isalpha() and _DIGITS.sub("0", one) != _DIGITS.sub("0", two):
            return False
        apart = _moment(one) - _moment(two)
    except (ValueError, TypeError):
        return False
    return abs(apart.total_seconds()) <= seconds
