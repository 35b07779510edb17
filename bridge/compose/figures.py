"""
Owns the figures that the admin listener shows to Prometheus, read from the rooms that
count them.

Refuses: to count anything itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.admin import Metric

if TYPE_CHECKING:
    from bridge.compose.server import Server


def figures(server: Server) -> list[Metric]:
    """
    What there is to see of one process.
    """
    shadows, lag = server.shadows, server.stalls.lag()
    found = [
        _one("bgserver_loop_lag_seconds", "gauge", "How late the loop's timers are, last seen.", lag.last),
        _one("bgserver_loop_lag_p99_seconds", "gauge", "The same, 99 of 100.", lag.p99),
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
    if server.state is not None:
        health = server.state.health()
        found += [
            _one("bgserver_state_up", "gauge", "Whether the state database answers.", float(health.problem is None)),
            _one("bgserver_state_lost_total", "counter", "Writes to the state that were lost.", health.lost),
            _one("bgserver_state_waiting", "gauge", "Writes that wait for the state.", health.waiting),
        ]
    return found


def _one(name: str, kind: str, meaning: str, value: float) -> Metric:
    return Metric(name, kind, meaning, (({}, float(value)),))
