"""
A hundred mutants of a handler against the gate, and the same handler against itself.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from bridge.config import GateConfig
from bridge.parity import Action, Effect, Gate, Observation, Tally, judge
from bridge.parity.tally import counts_of
from bridge.parity.verdict import Discord
from bridge.routing import Stage
from tests.parity.conftest import JSON, seen


@attrs.define
class Reply:
    """
    What a handler is about to answer.
    """

    status: int
    headers: list
    document: dict
    effects: list
    latency: float

    def observed(self) -> Observation:
        return seen(self.document, self.status, self.headers, effects=self.effects, latency=self.latency)


def handler(n: int, dice: random.Random) -> Reply:
    """
    A handler as people write them: a page of rows, sometimes a 404, some 30 milliseconds.
    """
    if n % 10 == 9:
        document: dict[str, Any] = {"error": "not_found", "message": f"no row {n}"}
        return Reply(404, [*JSON], document, [], dice.lognormvariate(-3.5, 0.3))
    rows = [{"id": n + k, "name": f"row {n + k}", "price": (n + k) / 4, "note": None} for k in range(3)]
    document = {"rows": rows, "total": n, "next": n + 3, "ok": True, "ratio": 1.5, "owner": {"name": "a", "age": 3}}
    headers = [*JSON, (b"cache-control", b"no-store"), (b"vary", b"accept"), (b"x-total", b"%d" % n)]
    effects = [Effect("row", f"log:{n}", {"n": n}), Effect("mail", f"outbox:{n}", {"to": "a"})]
    return Reply(200, headers, document, effects, dice.lognormvariate(-3.5, 0.3))


def setting(*path: Any, to: Any) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        at = reply.document
        if path[0] in at:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = to(at[path[-1]]) if callable(to) else to

    return mutate


def dropping(*path: Any) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        at = reply.document
        if path[0] in at:
            for key in path[:-1]:
                at = at[key]
            del at[path[-1]]

    return mutate


def header(name: bytes, value: bytes | None) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        reply.headers = [(n, v) for n, v in reply.headers if n != name]
        if value is not None:
            reply.headers.append((name, value))

    return mutate


def status(old: int, new: int) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        if reply.status == old:
            reply.status = new

    return mutate


def reordered(key: str | None) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        document = reply.document
        if key is None:
            reply.document = dict(reversed(document.items()))
        elif isinstance(document.get(key), list):
            document[key].reverse()
        elif key in document:
            document[key] = dict(reversed(document[key].items()))

    return mutate


def effects(change: Callable[[list], list]) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        reply.effects = change(reply.effects)

    return mutate


def slower(times: float) -> Callable[[Reply], None]:
    def mutate(reply: Reply) -> None:
        reply.latency *= times

    return mutate


def every(mutate: Callable[[Reply], None], dice: random.Random, share: float) -> Callable[[Reply], None]:
    def sometimes(reply: Reply) -> None:
        if dice.random() < share:
            mutate(reply)

    return sometimes


def mutants() -> list[Callable[[Reply], None]]:
    """
    Ten classes of ten.
    """
    dice = random.Random(60)
    changed = [
        setting(*path, to=to)
        for path, to in [
            (("total",), 0), (("next",), None), (("ok",), False), (("ratio",), 1.25), (("rows", 0, "name"), "x"),
            (("rows", 2, "id"), -1), (("owner", "name"), "b"), (("owner", "age"), 4), (("rows", 1, "price"), 0.0),
            (("error",), "gone"),
        ]
    ]  # fmt: skip
    missing = [dropping("rows", k % 3, "note") for k in range(5)] + [
        setting(key, to=None) for key in ("owner", "ratio", "total", "next", "message")
    ]
    numbers = [setting(key, to=float) for key in ("total", "next")]
    numbers += [setting("owner", "age", to=float), *(setting("rows", k, "id", to=float) for k in range(3))]
    numbers += [setting("total", to=str), setting("ratio", to=str), setting("rows", 0, "price", to=str)]
    numbers += [setting("ok", to=1)]
    statuses = [status(200, new) for new in (201, 202, 204, 206, 302, 500)] + [
        status(404, new) for new in (200, 400, 410, 500)
    ]
    headers = [header(b"content-type", v) for v in (None, b"text/html", b"application/json; charset=latin-1")]
    headers += [header(b"cache-control", v) for v in (None, b"no-cache", b"no-store, private")]
    headers += [header(b"vary", v) for v in (None, b"cookie")]
    headers += [header(b"x-total", None), header(b"set-cookie", b"sid=1")]
    orders = [reordered(None), reordered("rows"), reordered("owner")]
    orders += [lambda r, k=k: setting("rows", k, to=lambda row: dict(reversed(row.items())))(r) for k in range(3)]
    orders += [lambda r, k=k: setting("rows", to=lambda rows: rows[k:] + rows[:k])(r) for k in (1, 2)]
    orders += [setting("rows", to=lambda rows: rows[1:]), setting("rows", to=lambda rows: rows * 2)]
    lost = [effects(lambda e: e[1:]), effects(lambda e: e[:1]), effects(lambda e: [])]
    lost += [effects(lambda e, k=k: [attrs.evolve(x, value={"n": k, "to": k}) for x in e]) for k in range(7)]
    doubled = [effects(lambda e: e * 2), effects(lambda e: e + e[:1]), effects(lambda e: e + e[1:])]
    doubled += [effects(lambda e, k=k: e + [Effect("file", f"f:{k}")] * k) for k in range(1, 8)]
    slow = [slower(times) for times in (2.0, 2.0, 2.0, 2.2, 2.5, 3.0, 4.0, 5.0, 10.0, 50.0)]
    rare = [every(mutate, dice, 0.02) for mutate in (*changed[:5], *statuses[:2], *numbers[:2], reordered("rows"))]
    return [*changed, *missing, *numbers, *statuses, *headers, *orders, *lost, *doubled, *slow, *rare]


@attrs.define
class Trip:
    """
    One route on its way with C{promote = "auto"}: where it stands, and what for.
    """

    gate: Gate
    stage: Stage = Stage.SHADOW
    counts: Counter = attrs.field(factory=Counter)
    walk: float = 0.0
    moves: list = attrs.field(factory=list)

    def step(self, judged: Any) -> None:
        self.counts.update(counts_of(judged, self.stage.value))
        if judged.discord is not Discord.NONE:
            self.walk = self.gate.split.after(self.walk, judged.discord is Discord.AGAINST)
        ruling = self.gate.rule(
            self.stage, Tally(self.counts, self.stage.value, 1e9), outcomes=(200, 404), auto=True, walk=self.walk
        )
        if ruling.rejected:
            self.counts["rejected"] += 1
        if ruling.action is not Action.HOLD:
            self.moves.append((self.stage, ruling.to, ruling.why))
            self.stage, self.walk = ruling.to, 0.0
            if ruling.action is Action.DEMOTE:
                self.counts["rejected"] += 1


def journey(mutate: Callable[[Reply], None] | None, dice: random.Random, pairs: int) -> Trip:
    """
    Send that many requests, each answered by the side that the stage names.
    """
    trip = Trip(Gate(GateConfig(floor=0.0)))
    for n in range(pairs):
        legacy, replicate, modern, again = (handler(n, dice) for _ in range(4))
        if mutate is not None:
            mutate(modern)
            again = copy.deepcopy(modern)
        live = trip.stage is Stage.LIVE or (trip.stage is Stage.CANARY and n % 2 == 1)
        answer, other, twice = (modern, legacy, again) if live else (legacy, modern, replicate)
        trip.step(judge(answer.observed(), other.observed(), twice.observed(), live))
        if trip.counts["rejected"]:
            break  # the gate doesn't ask again until the code changes
    return trip


@pytest.mark.timeout(400)  # Half a minute of computing alone, and it is never alone.
def test_the_gate_stops_mutants():
    """
    Of a hundred faults, big and small, always and rare, at least 95 don't get through.
    """
    made = mutants()
    passed = []
    for n, mutate in enumerate(made):
        trip = journey(mutate, random.Random(n), 1200)
        if trip.stage in (Stage.CANARY, Stage.LIVE):
            passed.append((n, trip.stage, trip.moves))

    assert 100 == len(made)
    assert len(passed) <= 5, passed


@pytest.mark.parametrize("seed", [1, 2])
def test_a_handler_against_itself(seed):
    """
    Ten thousand pairs each: no difference, no way back, and it arrives.
    """
    trip = journey(None, random.Random(seed), 10_000)

    assert Stage.LIVE is trip.stage
    assert [Stage.CANARY, Stage.LIVE] == [move[1] for move in trip.moves]
    assert 0 == sum(n for name, n in trip.counts.items() if "different" in name or "against" in name)
