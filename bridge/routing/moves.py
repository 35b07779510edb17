"""
Owns the rules of who may move a route where, when a person asks.

Back is free at any time.  Into C{shadow} is free too: nothing moves, and evidence
begins there.  Everything else forward, a heavier canary included, goes one step at a time and wants
evidence that passes, or force and a reason that stays visible.

Refuses: to weigh the evidence itself; the gate does, and here it is only heard.
"""

from __future__ import annotations

from bridge.errors import RefusedChangeError
from bridge.routing.stage import Stage


def is_forward(old: tuple[Stage, float], new: tuple[Stage, float]) -> bool:
    """
    Whether a move gives modern more than it had.
    """
    if old[0] is new[0]:
        return new[1] > old[1]
    return new[0].step > old[0].step


def check_move(
    route: str,
    old: tuple[Stage, float],
    new: tuple[Stage, float],
    *,
    passing: bool,
    reading: str,
    modern: bool = True,
    force: bool = False,
    why: str = "",
) -> None:
    """
    Refuse a move that the rules don't allow as it was asked for.

    @param old: Stage and weight now.
    @param passing: Whether the gate would let it go one step forward.
    @param reading: What the gate says of the evidence, in words.
    @param modern: Whether there is a modern application at all.
    @param force: Go without evidence; C{why} must say the reason then.
    @raise RefusedChangeError: With the reason, and the remedy.
    """

    def refused(reason: str, remedy: str) -> RefusedChangeError:
        return RefusedChangeError(route, new[0].value, reason, remedy)

    if new[0] is Stage.CANARY and not 0 < new[1] <= 100:
        raise refused(
            f"a canary of {new[1]:g} % is none",
            "Give --weight from above 0 to 100, or the route a canary.weight in the policy.",
        )
    if new[0] is not Stage.LEGACY and not modern:
        raise refused("there is no modern application", 'Name one under [modern] app = "module:name".')
    if force and not why.strip():
        raise refused("force wants a reason that stays visible", "Add --why TEXT.")
    if force or old == new:
        return
    if old[0] is Stage.RETIRED:
        raise refused("legacy's code is gone", "If it is there again, add --force --why TEXT.")
    if new[0] is Stage.SHADOW or not is_forward(old, new):
        return
    if new[0].step - old[0].step > 1:
        raise refused(
            f"from {old[0].value} that is more than one step, and evidence carries one",
            "Go one step at a time, or add --force --why TEXT.",
        )
    if not passing:
        raise refused(
            f"the gate holds it: {reading}",
            "Wait for the evidence, or add --force --why TEXT.",
        )
