"""
Owns the comparison of what two runs did besides answering, under a map of ids.

Effects are matched within a kind and a kind of key (the part before the first colon):
first those whose keys the map already pairs, then those that say the same under the
map, and the rest in their order.  An effect more or less is a difference, and so is
every field of its value.

Refuses: to care in which order effects came: two runs interleave what they do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.documents import DocumentComparison, parse, timeless
from bridge.parity.ids import ID, IdMap, names_id
from bridge.parity.observe import Effect
from bridge.parity.rules import Rules


def compare_effects(
    left: Sequence[Effect], right: Sequence[Effect], rules: Rules, ids: IdMap | None
) -> list[Difference]:
    """
    All differences between two runs' effects.
    """
    ids = IdMap() if ids is None else ids
    found: list[Difference] = []
    lefts, rights = _grouped(left), _grouped(right)
    for group in [*lefts, *(each for each in rights if each not in lefts)]:
        path = f"effect:{group[0]}:{group[1]}" if group[1] else f"effect:{group[0]}"
        if rules.ignores(path):
            continue
        ones, twos = list(lefts.get(group, ())), list(rights.get(group, ()))
        if ones and twos and len(ones) != len(twos):
            found.append(Difference(Kind.EFFECT_COUNT, path, str(len(ones)), str(len(twos))))
        for one, two in _matched(ones, twos, ids):
            if not _same_key(one.key, two.key, ids):
                found.append(Difference(Kind.ID, path, one.key, two.key))
            found += _values(path, one.value, two.value, rules, ids)
        for one in ones:
            found.append(Difference(Kind.EFFECT_MISSING, path, _text(one), ""))
        for two in twos:
            found.append(Difference(Kind.EFFECT_ADDED, path, "", _text(two)))
    return [each for each in found if not rules.ignores(each.path)]


def _grouped(effects: Sequence[Effect]) -> dict[tuple[str, str], list[Effect]]:
    made: dict[tuple[str, str], list[Effect]] = {}
    for effect in effects:
        head = effect.key.partition(":")[0] if ":" in effect.key else ID.sub("*", effect.key)
        made.setdefault((effect.kind, head), []).append(effect)
    return made


def _matched(ones: list[Effect], twos: list[Effect], ids: IdMap) -> list[tuple[Effect, Effect]]:
    """
    Take the pairs out of both lists: by key first, then by order.
    """
    pairs: list[tuple[Effect, Effect]] = []
    for sign in (_name, _saying):
        known: dict[str, list[Effect]] = {}
        for two in twos:
            known.setdefault(sign(two, None), []).append(two)
        known.pop("", None)
        for one in list(ones):
            same = known.get(sign(one, ids))
            if same:
                two = same.pop(0)
                ones.remove(one)
                twos.remove(two)
                pairs.append((one, two))
    count = min(len(ones), len(twos))
    pairs += zip(ones[:count], twos[:count], strict=True)
    del ones[:count], twos[:count]
    return pairs


def _name(effect: Effect, ids: IdMap | None) -> str:
    """
    The key, in the right run's words; nothing where it only counts rows.
    """
    if effect.key.rpartition(":")[2].isdecimal():
        return ""
    return effect.key if ids is None else ids.rewrite(effect.key)


def _saying(effect: Effect, ids: IdMap | None) -> str:
    """
    The value, in the right run's words, without what counts and what tells the time.
    """
    value = effect.value
    if isinstance(value, dict):
        value = {key: each for key, each in value.items() if not (isinstance(each, int) and names_id(key))}
    text = timeless(json.dumps(value, default=str, sort_keys=True))
    return text if ids is None else ids.rewrite(text)


def _same_key(one: str, two: str, ids: IdMap) -> bool:
    """
    Whether two keys are each other's: numbers that count rows are ids here.
    """
    if ids.same_text(one, two):
        return True
    (head, _, left), (other, _, right) = one.rpartition(":"), two.rpartition(":")
    return head == other and left.isdecimal() and right.isdecimal() and ids.pairs(one, two)


def _values(path: str, left: Any, right: Any, rules: Rules, ids: IdMap) -> list[Difference]:
    if left == right and type(left) is type(right):
        return []
    return DocumentComparison(rules, ids).compare(_document(left), _document(right), path)


def _document(value: Any) -> Any:
    # Through its text, so that a handler's own types count as what they would write.
    return parse(json.dumps(value, default=str).encode())


def _text(effect: Effect) -> str:
    return shown(effect.key if effect.value is None else {effect.key: effect.value})
