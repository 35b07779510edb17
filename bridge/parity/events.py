"""
Owns the comparison of two streams by their first events.

Refuses: to compare more than both showed, where either was cut; where both ended by
themselves, an event more or less is a difference.
"""

from __future__ import annotations

from bridge.parity.differences import Difference, Kind, shown
from bridge.parity.documents import DocumentComparison, NotJSON, parse
from bridge.parity.ids import IdMap
from bridge.parity.observe import Ending, Observation
from bridge.parity.rules import Rules


def compare_events(left: Observation, right: Observation, rules: Rules, ids: IdMap | None) -> list[Difference]:
    """
    All differences between the events that both showed.
    """
    lefts, rights = events_of(left), events_of(right)
    found: list[Difference] = []
    ended = (Ending.COMPLETE, Ending.SHORT, Ending.RAISED)
    if len(lefts) != len(rights) and _too_few(left, right, ended):
        found.append(Difference(Kind.LENGTH, "events", str(len(lefts)), str(len(rights))))
    for place, (one, two) in enumerate(zip(lefts, rights, strict=False)):
        if one != two:
            found += _event(f"events[{place}]", one, two, rules, ids)
    return [each for each in found if not rules.ignores(each.path)]


def _too_few(left: Observation, right: Observation, ended: tuple[Ending, ...]) -> bool:
    fewer = left if len(events_of(left)) < len(events_of(right)) else right
    # One that ended by itself had no more to say; one that was cut might have had.
    return fewer.ending in ended or fewer.ending is Ending.DEADLINE


def events_of(observation: Observation) -> list[bytes]:
    """
    The whole events in what was kept, and the rest where the stream ended.
    """
    *events, rest = observation.prefix.replace(b"\r\n", b"\n").split(b"\n\n")
    if rest and observation.ending in (Ending.COMPLETE, Ending.SHORT):
        events.append(rest)
    return events


def _event(path: str, left: bytes, right: bytes, rules: Rules, ids: IdMap | None) -> list[Difference]:
    found: list[Difference] = []
    lefts, rights = _fields(left), _fields(right)
    for name in [*lefts, *(each for each in rights if each not in lefts)]:
        one, two = lefts.get(name, b""), rights.get(name, b"")
        if one == two:
            continue
        below = f"{path}.{name}"
        try:
            found += DocumentComparison(rules, ids).compare(parse(one), parse(two), below)
        except (NotJSON, RecursionError):
            same = ids is not None and ids.same_text(one.decode("latin-1"), two.decode("latin-1"))
            if not same:
                found.append(Difference(Kind.VALUE, below, shown(one), shown(two)))
    return found


def _fields(event: bytes) -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        key = name.decode("latin-1") or "comment"
        value = value.removeprefix(b" ")
        made[key] = made[key] + b"\n" + value if key in made else value
    return made
