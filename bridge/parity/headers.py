"""
Owns the comparison of two heads: a multiset of lower-cased names, and the structure
of those headers that have one.

C{content-type}, C{vary} and C{cache-control} are read before they are compared;
C{set-cookie} is compared cookie by cookie, and each attribute on its own; a
C{content-length} that tells its own body's size says nothing that the body doesn't, and
modern may tell one where legacy sent chunks. That it is missing where legacy told it counts:
who downloads sees no progress any more.

Refuses: to compare what servers decide (L{bridge.parity.rules.DEFAULT_HEADERS}).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.ids import IdMap
from bridge.parity.observe import Observation
from bridge.parity.rules import DEFAULT_HEADERS, Rules


def compare_headers(left: Observation, right: Observation, rules: Rules, ids: IdMap | None) -> list[Difference]:
    """
    All differences between two heads.
    """
    lefts, rights = normalised(left), normalised(right)
    found: list[Difference] = []
    for name in sorted(lefts.keys() | rights.keys()):
        if name in DEFAULT_HEADERS:
            continue
        path = f"header:{name}"
        one, two = lefts.get(name), rights.get(name)
        if name == "set-cookie":
            found += _cookies(one or [], two or [], ids)
        elif one is None:
            if name == "content-length" and _own(two or [], right):
                continue
            found.append(Difference(Kind.HEADER_ADDED, path, "", shown(", ".join(two or []))))
        elif two is None:
            found.append(Difference(Kind.HEADER_MISSING, path, shown(", ".join(one)), ""))
        elif one != two and not _same(name, one, two, rules, ids):
            if name == "content-length" and _own(one, left) and _own(two, right):
                continue
            found.append(Difference(Kind.HEADER, path, shown(", ".join(one)), shown(", ".join(two))))
    return [each for each in found if not rules.ignores(each.path)]


def normalised(observation: Observation) -> dict[str, list[str]]:
    """
    Names in lower case; the values in the order in which they came.
    """
    made: dict[str, list[str]] = {}
    for name, value in observation.headers:
        made.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())
    return made


def media_type(values: Iterable[str]) -> tuple[str, frozenset[tuple[str, str]]]:
    """
    A content type's name and parameters, without case where case says nothing.
    """
    name, *parameters = ",".join(values).split(";")
    read = set()
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        key, value = key.strip().lower(), value.strip().strip('"')
        if key:
            read.add((key, value.lower() if key == "charset" else value))
    return name.strip().lower(), frozenset(read)


def _tokens(values: Iterable[str]) -> Counter[str]:
    made: Counter[str] = Counter()
    for token in ",".join(values).split(","):
        name, equals, value = token.strip().partition("=")
        if name:
            made[name.strip().lower() + equals + value.strip().strip('"')] = 1
    return made


def _same(name: str, one: list[str], two: list[str], rules: Rules, ids: IdMap | None) -> bool:
    if Counter(one) == Counter(two):
        return True
    if name == "content-type":
        return media_type(one) == media_type(two)
    if name in ("vary", "cache-control"):
        lefts, rights = _tokens(one), _tokens(two)
        if name == "vary":
            return {t.lower() for t in lefts} == {t.lower() for t in rights}
        return lefts == rights
    far = rules.tolerance(f"header:{name}")
    if far and len(one) == len(two) == 1:
        try:
            return abs(float(one[0]) - float(two[0])) <= far
        except ValueError:
            return False
    return ids is not None and len(one) == len(two) and all(map(ids.same_text, one, two))


def _own(values: list[str], observation: Observation) -> bool:
    return values == [str(observation.size)]


def _cookies(one: list[str], two: list[str], ids: IdMap | None) -> list[Difference]:
    found: list[Difference] = []
    lefts, rights = _jar(one), _jar(two)
    for name in sorted(lefts.keys() | rights.keys()):
        path = f"header:set-cookie[{name}]"
        if name not in rights:
            found.append(Difference(Kind.HEADER_MISSING, path, lefts[name][""], ""))
            continue
        if name not in lefts:
            found.append(Difference(Kind.HEADER_ADDED, path, "", rights[name][""]))
            continue
        a, b = lefts[name], rights[name]
        for key in sorted(a.keys() | b.keys()):
            if key == "expires" and "max-age" in a and "max-age" in b:
                continue  # max-age wins, and doesn't move with the clock
            left, right = a.get(key), b.get(key)
            if left == right or (key == "expires" and _about(left, right)):
                continue
            if not key and ids is not None and ids.same_text(left or "", right or ""):
                continue
            below = f"{path}.{key}" if key else path
            found.append(Difference(Kind.HEADER, below, left or "", right or ""))
    return found


def _jar(values: list[str]) -> dict[str, dict[str, str]]:
    """
    Cookies by name; each with its value under the empty key, and its attributes. Of
    several with one name, for several paths as a rule, each is one of its own.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for value in values:
        first, *attributes = value.split(";")
        name, _, content = first.partition("=")
        cookie = {"": content.strip()}
        for attribute in attributes:
            key, _, setting = attribute.partition("=")
            key = key.strip().lower()
            if key:
                # SameSite and the flags know no case; paths and domains do.
                setting = setting.strip()
                cookie[key] = setting.lower() if key in ("samesite", "domain") else setting
        found.setdefault(name.strip(), []).append(cookie)
    made: dict[str, dict[str, str]] = {}
    for name, cookies in found.items():
        cookies.sort(key=lambda each: (each.get("path", ""), each.get("domain", "")))
        for place, cookie in enumerate(cookies, 1):
            made[name if place == 1 else f"{name}, {place}"] = cookie
    return made


def _about(left: str | None, right: str | None) -> bool:
    if left is None or right is None:
        return False
    try:
        apart = parsedate_to_datetime(left) - parsedate_to_datetime(right)
    except (ValueError, TypeError):
        return False
    return abs(apart.total_seconds()) <= 2
