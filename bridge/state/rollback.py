"""
Owns the way back: one route or all of them to legacy, and the account of what a rollback
of all moved, what it left where it was, and why.

A way back doesn't lose a race: where somebody else moved the route in the meantime, it is
sent back from where they put it.

Refuses: to touch loops, which are handed over one at a time, and to send a retired route
where nothing answers.  Both are named instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bridge.background.ownership import LoopStage
from bridge.config import Config
from bridge.errors import StaleChangeError, StateUnavailableError
from bridge.routing import Side, Stage
from bridge.state.stages import Snapshot
from bridge.state.view import number, start

if TYPE_CHECKING:
    from bridge.state.desk import Desk

# Who moves the same route this often while it is sent back is a program that does nothing else.
_RACES = 10

_SETTLED = (Stage.LEGACY, Stage.RETIRED)


def back(desk: Desk, name: str, *, who: str, why: str) -> dict[str, Any]:
    """
    Send one route back to legacy, from wherever it is.

    @raise RefusedChangeError: If it is retired.
    """
    for _ in range(_RACES):
        try:
            return desk.move(name, Stage.LEGACY, who=who, why=why)
        except StaleChangeError:
            continue
    return desk.move(name, Stage.LEGACY, who=who, why=why)


def back_all(desk: Desk, *, who: str, why: str) -> dict[str, Any]:
    """
    Send every route back that has somewhere to go, and say what stays.

    @return: C{moved} and C{left}.
    @raise StateUnavailableError: If the state can't be written; where it took some of them
        before, the others are among what is left.
    """
    snapshot = desk.snapshot()
    moved: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for route in movable(desk.config, snapshot):
        try:
            moved.append(back(desk, route, who=who, why=why))
        except StateUnavailableError as error:
            if not moved:
                raise
            # The next one would wait as long for the same answer.
            failed = dict.fromkeys(set(movable(desk.config, snapshot)) - {row["route"] for row in moved}, str(error))
            break
    gone = {row["route"] for row in moved}
    return {"moved": moved, "left": left(desk.config, snapshot, gone, failed)}


def movable(config: Config, snapshot: Snapshot) -> list[str]:
    """
    The routes that a rollback of all is about.
    """
    return [
        route.name
        for route in (*config.routes, config.default_route)
        if snapshot.routes.get(route.name, start(route))[0] not in _SETTLED
    ]


def left(
    config: Config, snapshot: Snapshot, moved: Collection[str], failed: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """
    What a rollback of all leaves as it is, routes before loops: where it stands, on which
    side that is, and why it stays.

    @param snapshot: The stages before it.
    @param moved: The routes that it moved.
    @param failed: Why others couldn't be moved.
    """
    rows: list[dict[str, Any]] = []
    for route in (*config.routes, config.default_route):
        stage, weight = snapshot.routes.get(route.name, start(route))
        if route.name in moved:
            continue
        side = Side.LEGACY if stage in (Stage.LEGACY, Stage.SHADOW) else Side.MODERN
        why = (failed or {}).get(route.name) or _why(route.name, stage)
        rows.append(
            {"route": route.name, "stage": stage.value, "weight": number(weight), "side": side.value, "why": why}
        )
    for loop in config.loops:
        at = LoopStage(snapshot.loops.get(loop.name, loop.stage))
        rows.append({"loop": loop.name, "stage": at.value, "side": at.owner.value, "why": _why_loop(loop.name, at)})
    return rows


def _why(route: str, stage: Stage) -> str:
    if stage is Stage.LEGACY:
        return "legacy answers it already"
    if stage is Stage.RETIRED:
        return f"legacy's code is gone. If it is there again: `bgctl set '{route}' legacy --force --why TEXT`"
    return "it was moved in the meantime: roll back again"


def _why_loop(loop: str, stage: LoopStage) -> str:
    if stage.owner is Side.LEGACY:
        return "legacy runs it already"
    steps = ("legacy",) if stage is LoopStage.LIVE else ("live", "legacy")
    how = ", then ".join(f"`bgctl handoff {loop} {step}`" for step in steps)
    return f"loops are handed over one at a time: {how}"
