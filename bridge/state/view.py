"""
Owns one look at the state under a policy: where routes and loops stand, what was
counted for the code that runs, and what the gate says of it.

It is read in a few queries, however many routes there are.  Refuses: to change
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from bridge.background.ownership import LoopStage, shown
from bridge.background.pairing import Verdict
from bridge.config import Config, LoopConfig, RouteConfig
from bridge.parity.gate import TAKEN_BACK, Gate, Ruling
from bridge.parity.tally import AGAINST, DIFFERENT, IN_FAVOUR, Tally
from bridge.routing import Side, Stage
from bridge.state.evidence import Counted
from bridge.state.leases import Lease
from bridge.state.servers import Presence
from bridge.state.stages import Snapshot
from bridge.state.store import Store

Rule = Callable[[RouteConfig, Stage, Tally], Ruling]
"""
What the gate says of a route at a stage with these counts.
"""


_SIDES = frozenset(side.value for side in Side)


@attrs.frozen
class View:
    """
    What the state said at one moment.

    @ivar rule: The gate of the process, which may know of more than counts; else
        the policy's gate rules on the counts alone.
    @ivar identities: The identity of the code that runs, by route; where it isn't
        known, the evidence that was counted last is what counts.
    @ivar now: Wall-clock seconds.
    @ivar servers: Who runs on it, as they said.
    """

    config: Config
    snapshot: Snapshot
    rule: Rule | None
    identities: Callable[[str], str | None]
    now: float
    counted: Mapping[str, list[Counted]] = attrs.field(factory=dict)
    moved_at: Mapping[str, float] = attrs.field(factory=dict)
    leases: Mapping[str, Lease] = attrs.field(factory=dict)
    servers: Sequence[Presence] = ()

    def filled(self, store: Store, route: str | None = None) -> View:
        """
        This view with the evidence of all routes, or of one.
        """
        return attrs.evolve(
            self,
            counted=store.counted(route),
            moved_at=store.moved_at(route),
            leases=store.leases(),
            servers=store.servers(),
        )

    @property
    def forced(self) -> bool:
        """
        Whether legacy does everything, by this policy or on a server that runs.
        """
        return self.config.force_legacy or any(each.force_legacy and each.alive(self.now) for each in self.servers)

    def standing(self, route: RouteConfig) -> tuple[Stage, float]:
        """
        Stage and weight now.
        """
        return self.snapshot.routes.get(route.name, start(route))

    def identity(self, route: RouteConfig) -> str | None:
        """
        The code whose evidence counts; None if nothing was ever counted.
        """
        found = self.counted.get(route.name)
        return self.identities(route.name) or (found[0].identity if found else None)

    def tally(self, route: RouteConfig) -> Tally:
        """
        What was counted for that code, and how long the stage has lasted.
        """
        stage, identity = self.standing(route)[0], self.identity(route)
        counted = self.counted.get(route.name, [])
        former = any(found.identity != identity for found in counted)
        for found in counted:
            if found.identity == identity:
                # Whichever is later: a route that stays where it is may begin anew.
                since = max(found.first_at, self.moved_at.get(route.name, found.first_at))
                return Tally(found.counts, stage.value, max(0.0, self.now - since), former)
        return Tally(stage=stage.value, former=former)

    def ruling(self, route: RouteConfig) -> tuple[Ruling, Tally]:
        """
        What the gate says, and on what.
        """
        stage, tally = self.standing(route)[0], self.tally(route)
        if stage is Stage.LEGACY and route.promote == "auto" and route.name in self.snapshot.held:
            return TAKEN_BACK, tally
        if self.rule is not None:
            return self.rule(route, stage, tally), tally
        gate = Gate(self.config.gate)
        walk = gate.split.of_counts(tally[AGAINST], tally[IN_FAVOUR])
        auto = route.promote == "auto"
        return gate.rule(stage, tally, route.effects, route.outcomes, auto, walk), tally

    def row(self, route: RouteConfig) -> dict[str, Any]:
        """
        One route, for JSON.
        """
        stage, weight = self.standing(route)
        ruling, tally = self.ruling(route)
        return {
            "route": route.name,
            "stage": stage.value,
            "weight": number(weight),
            "pairs": tally.pairs,
            "mismatches": tally[DIFFERENT],
            "gate": ruling.action.value,
            "why": ruling.why,
            "effects": route.effects.value,
            "promote": route.promote,
            "sample": route.sample,
        }

    def loop_row(self, loop: LoopConfig) -> dict[str, Any]:
        """
        One background loop, for JSON.
        """
        lease = self.leases.get(loop.name)
        holder = "" if lease is None or lease.holder is None else lease.holder
        owner = holder.partition(":")[0] or None
        side = Side(owner) if owner in _SIDES else None
        stage = LoopStage(self.snapshot.loops.get(loop.name, loop.stage))
        row: dict[str, Any] = {
            "loop": loop.name,
            "owner": owner,
            "epoch": 0 if lease is None else lease.epoch,
            "stage": stage.value,
        }
        # Under force_legacy legacy runs it whatever the stage says, and nothing is on its way.
        if side is not None and not self.forced and shown(stage, side) is not stage:
            row.update(stage=LoopStage.HANDOFF.value, towards=stage.value)
        counts = self.ticks(loop)
        if counts or stage is LoopStage.OBSERVE:
            same, different = (counts.get(each.value, 0) for each in (Verdict.SAME, Verdict.DIFFERENT))
            missing = {
                side: counts.get(each.value, 0)
                for side, each in (("legacy", Verdict.MISSING_LEGACY), ("modern", Verdict.MISSING_MODERN))
            }
            row["observed"] = {
                "same": same,
                "different": different,
                "missing": sum(missing.values()),
                "missing_on": missing,
            }
        return row

    def ticks(self, loop: LoopConfig) -> Mapping[str, int]:
        """
        What was counted of a loop's dry run, under the code that was counted last.
        """
        found = self.counted.get(loop_key(loop.name))
        return found[0].counts if found else {}


def loop_key(loop: str) -> str:
    """
    What evidence calls a loop: no route is called so.
    """
    return f"loop {loop}"


def start(route: RouteConfig) -> tuple[Stage, float]:
    """
    Where the policy starts a route.
    """
    return route.stage, route.weight if route.stage is Stage.CANARY else 0.0


def number(weight: float) -> float | int:
    """
    A weight as people write it.
    """
    return int(weight) if weight == int(weight) else weight
