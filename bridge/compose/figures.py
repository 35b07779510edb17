"""
Owns the figures that the admin listener shows to Prometheus, read from the rooms that
count them.

Counters are this process's own since its start, so that those of several processes can be
added up.  Labels are names from the policy and words of this package; nothing that a
request says becomes one.

Refuses: to count anything itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bridge.admin import Metric
from bridge.background.ownership import LoopStage
from bridge.background.pairing import Verdict as TickVerdict
from bridge.background.supervisor import LoopStatus
from bridge.dispatch import Dropped
from bridge.parity import Verdict
from bridge.routing import Side, Stage
from bridge.state.view import loop_key

if TYPE_CHECKING:
    from bridge.compose.evidence import Evidence
    from bridge.compose.server import Server


def figures(server: Server) -> list[Metric]:
    """
    What there is to see of one process.
    """
    shadows, lag = server.shadows, server.stalls.lag()
    found = [
        _one("bgserver_loop_lag_seconds", "gauge", "How late the loop's timers are, last seen.", lag.last),
        _one("bgserver_loop_lag_p99_seconds", "gauge", "How late 99 of 100 of them were at most.", lag.p99),
        _one("bgserver_loop_stalls_total", "counter", "Callbacks that blocked the loop.", server.stalls.stalls),
        _one("bgserver_requests_total", "counter", "Requests answered.", server.front.state.total_requests),
        _one("bgserver_connections", "gauge", "Connections that are open.", len(server.front.state.connections)),
        _one("bgserver_shadows_waiting", "gauge", "Requests that wait for their shadow.", shadows.waiting),
        _one("bgserver_shadows_running", "gauge", "Requests that are being shadowed.", shadows.busy),
        _one("bgserver_shadows_lingering", "gauge", "Slots held by shadows that don't end.", shadows.lingering),
    ]
    feed = None if server.evidence is None else server.evidence.feed
    if feed is not None:
        found += [
            _one("bgserver_sandbox_ready", "gauge", "Whether the copies stand where the stores do.", float(feed.ready)),
            _one("bgserver_sandbox_waiting", "gauge", "Writes that the sandboxes still work on.", feed.waiting),
            _one("bgserver_sandbox_seedings_total", "counter", "How often the copies were made.", feed.seedings),
        ]
    if server.evidence is not None:
        waits = server.evidence.keeper.failures
        found.append(_one("bgserver_evidence_waits_total", "counter", "Turns in which evidence had to wait.", waits))
        held = float(server.evidence.seat.held())
        found.append(_one("bgserver_gate_held", "gauge", "Whether this process is the one gate.", held))
        found += _shadowing(server, server.evidence)
    if server.state is not None:
        health = server.state.health()
        found += [
            _one("bgserver_state_up", "gauge", "Whether the state database answers.", float(health.problem is None)),
            _one("bgserver_state_lost_total", "counter", "Writes to the state that were lost.", health.lost),
            _one("bgserver_state_waiting", "gauge", "Writes that wait for the state.", health.waiting),
        ]
    forced = float(server.stages.table.value.force_legacy)
    found.append(_one("bgserver_force_legacy", "gauge", "Whether legacy answers everything here.", forced))
    found += _loops([loop.status() for loop in server.loops], _counted(server.evidence))
    return found


def _counted(evidence: Evidence | None) -> Mapping[str, Counter[str]]:
    return {} if evidence is None else evidence.examiner.ledger.here


def _shadowing(server: Server, evidence: Evidence) -> Iterable[Metric]:
    """
    Pairs and dropped shadows: of the routes that can have some now, from zero on, and of
    those that had some before.
    """
    counted, table = _counted(evidence), server.stages.table.value
    verdicts = [each.value for each in Verdict]
    reasons = {f"dropped:{each.value}": each.value for each in Dropped}
    pairs: list[tuple[dict[str, str], float]] = []
    dropped: list[tuple[dict[str, str], float]] = []
    for route in (*table.routes, table.default):
        here = counted.get(route.name, Counter())
        lost = sum(here[name] for name in reasons)
        moving = route.stage in (Stage.SHADOW, Stage.CANARY, Stage.LIVE) and route.effects.may_shadow
        if moving or any(here[name] for name in verdicts):
            pairs += [({"route": route.name, "verdict": name}, here[name]) for name in verdicts]
        if moving or lost:
            dropped.append(({"route": route.name}, lost))
    why = [({"reason": word}, sum(here[name] for here in counted.values())) for name, word in reasons.items()]
    return [
        Metric(
            "bgserver_route_pairs_total",
            "counter",
            'Compared pairs of a route by verdict; "different" are its mismatches.',
            tuple(pairs),
        ),
        Metric(
            "bgserver_route_shadows_dropped_total",
            "counter",
            "Requests of a route that went by without their shadow.",
            tuple(dropped),
        ),
        Metric("bgserver_shadows_dropped_total", "counter", "The same of all routes, by why.", tuple(why)),
    ]


def _loops(loops: Iterable[LoopStatus], counted: Mapping[str, Counter[str]]) -> Iterable[Metric]:
    """
    The background loops, as this process knows them.
    """
    stage: list[tuple[dict[str, str], float]] = []
    owner: list[tuple[dict[str, str], float]] = []
    epoch: list[tuple[dict[str, str], float]] = []
    here: list[tuple[dict[str, str], float]] = []
    restarts: list[tuple[dict[str, str], float]] = []
    ticks: list[tuple[dict[str, str], float]] = []
    for loop in loops:
        name = {"loop": loop.name}
        stage += [({**name, "stage": each.value}, loop.stage is each) for each in LoopStage]
        owner += [({**name, "owner": each.value}, loop.owner is each) for each in Side]
        epoch.append((name, loop.epoch))
        here.append((name, loop.here))
        restarts.append((name, loop.restarts))
        seen = counted.get(loop_key(loop.name), Counter())
        if seen or loop.stage is LoopStage.OBSERVE:
            ticks += [({**name, "verdict": word}, seen[word]) for word in map(_word, TickVerdict)]
    made = [
        ("stage", "gauge", "Where a background loop stands: 1 for its stage.", stage),
        ("owner", "gauge", "Which side holds its lease, in any process: 1 for that side.", owner),
        ("epoch", "gauge", "The epoch of its lease; each new owner has a higher one.", epoch),
        ("held", "gauge", "Whether this process holds its lease.", here),
        ("restarts_total", "counter", "How often it ended by itself here, and was started again.", restarts),
        ("ticks_total", "counter", "Ticks of its dry run here, by what came of comparing them.", ticks),
    ]
    return [Metric(f"bgserver_background_loop_{name}", kind, text, tuple(rows)) for name, kind, text, rows in made]


def _word(verdict: TickVerdict) -> str:
    return verdict.value.partition(".")[2]


def _one(name: str, kind: str, meaning: str, value: float) -> Metric:
    return Metric(name, kind, meaning, (({}, float(value)),))
