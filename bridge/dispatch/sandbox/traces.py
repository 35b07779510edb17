"""
Owns the question whose change a change is: an instance goes on working after its
answer, and the next write is run meanwhile.

A change belongs to the write that is being run, if they share an id, or if that
write's request or answer says its key; else to the first with whose ids it shares one,
or to the last whose words say its key: who made a task is whose its progress is, and if
that write is judged already, nobody's.  A key that only counts rows says nothing.  A
change that shares nothing with any is the running write's.  What an instance writes
when nothing runs is its own, and so is whatever it writes there later.

Refuses: to drop a change that a running write may have made, unless that place is
known to change by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import attrs

from bridge.dispatch.sandbox.net import ids_of
from bridge.dispatch.trial import Request
from bridge.parity.ids import ID
from bridge.parity.observe import Effect, Observation

# A shorter key stands in too many texts by chance.
_TELLING = 4


@attrs.define(eq=False)
class Trace:
    """
    What one write left in one sandbox, as far as it has come.

    @ivar ids: The ids that are its own, or that it is about.
    @ivar text: What its request and its answer say.
    @ivar last: When the last change came.
    """

    ids: set[str]
    text: str
    changes: list[Effect] = attrs.field(factory=list)
    last: float = 0.0

    @classmethod
    def of(cls, request: Request, answer: Observation) -> Trace:
        """
        The trace of a request in a sandbox's words, and of its answer.
        """
        scope = request.scope
        said = b"\n".join([request.body, scope.get("query_string", b""), answer.prefix]).decode("utf-8", "replace")
        text = f"{scope['path']}\n{said}"
        return cls({*ID.findall(text), *ids_of(answer)}, text)

    def add(self, change: Effect, ids: set[str], at: float) -> None:
        """
        Take a change; a row that came is known by its ids from now on.
        """
        self.changes.append(change)
        self.last = at
        if change.value["op"] == "insert":
            self.ids |= ids


@attrs.define(eq=False)
class Habits:
    """
    What is known of an instance.

    @ivar unprompted: What it writes to by itself, as a kind and the key's head.
    @ivar common: Ids that are the instance's and no write's: a process, a host.
    @ivar gone: Ids of writes that were judged, the latest ones.
    """

    unprompted: set[tuple[str, str]] = attrs.field(factory=set)
    common: set[str] = attrs.field(factory=set)
    gone: dict[str, None] = attrs.field(factory=dict)

    def forget(self) -> None:
        """
        Begin anew, with another instance.
        """
        self.unprompted.clear()
        self.common.clear()
        self.gone.clear()


def belongs(change: Effect, traces: Sequence[Trace], current: Trace | None, habits: Habits, at: float) -> None:
    """
    Give a change to the trace that it belongs to, if it belongs to any.

    @param traces: Those whose work may go on, oldest first; C{current} is the one that
        is being run.
    """
    head, _, name = change.key.partition(":")
    asked = traces if current is None else [current, *traces]
    ids = set(ID.findall(change.key))
    if not asked:
        habits.unprompted.add((change.kind, head))
        habits.common |= ids - habits.gone.keys()
        return
    ids -= habits.common
    trace = _first(asked, ids)
    if trace is None and not ids and len(name) >= _TELLING and not name.isdecimal():
        last = [*reversed(traces)] if current is None else [current, *reversed(traces)]
        trace = next((each for each in last if name in each.text), None)
    if trace is None and habits.gone.keys().isdisjoint(ids):
        said = set(ID.findall(json.dumps(change.value, default=str))) - habits.common
        trace = _first(asked, said)
        ids |= said
    if trace is None and habits.gone.keys().isdisjoint(ids) and (change.kind, head) not in habits.unprompted:
        trace = current
    if trace is not None:
        trace.add(change, set(ID.findall(change.key)) - habits.common, at)


def _first(traces: Sequence[Trace], ids: set[str]) -> Trace | None:
    return next((each for each in traces if not ids.isdisjoint(each.ids)), None) if ids else None
