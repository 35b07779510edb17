"""
Owns what an operator may ask of the state under a policy: where everything stands,
why, and to move it.  The answers are made of plain dicts, ready for JSON: the admin
API gives them as they are, and bgctl shows the same ones.

Refuses: to run on an event loop's thread; and to change anything that the rules of
L{bridge.routing.moves} don't allow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import attrs

from bridge.background.ownership import LoopStage
from bridge.background.ownership import check_move as check_move_of_loop
from bridge.config import Config, LoopConfig, RouteConfig
from bridge.errors import RefusedChangeError, UnknownLoopError
from bridge.parity.gate import Ruling
from bridge.parity.tally import DIFFERENT, Tally
from bridge.routing import Side, Stage, resolve
from bridge.routing.moves import check_move, is_forward
from bridge.state.evidence import RULE
from bridge.state.rollback import back, back_all
from bridge.state.stages import ROUTE, Change, Snapshot
from bridge.state.store import Store
from bridge.state.view import Rule, View, loop_key, number, start


@attrs.frozen
class Desk:
    """
    One policy and the state that belongs to it.  Every call blocks.

    @ivar store: None where no state was ever written: all stands as the policy says.
    @ivar rule: The gate of the process, which may know of more than counts; else
        the policy's gate rules on the counts alone.
    @ivar identities: The identity of the code that runs, by route; where it isn't
        known, the evidence that was counted last is what counts.
    @ivar known: The stages as they were last seen, where there is no store.
    """

    config: Config
    store: Store | None
    rule: Rule | None = None
    identities: Callable[[str], str | None] = lambda route: None
    clock: Callable[[], float] = time.time
    known: Snapshot = attrs.field(factory=lambda: Snapshot(0, {}, {}))

    # -- looking -------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """
        Every route and loop, and what the gate says.
        """
        return self._status(self._view())

    def _status(self, view: View) -> dict[str, Any]:
        return {
            "routes": [view.row(route) for route in self._routes()],
            "loops": [view.loop_row(loop) for loop in self.config.loops],
            "version": view.snapshot.version,
            "policy": self.config.source,
            **self._overrides(view),
        }

    def _overrides(self, view: View) -> dict[str, Any]:
        """
        Where the stages may not be what counts.
        """
        return {
            "force_legacy": self.config.force_legacy,
            "servers": [{**attrs.asdict(each), "alive": each.alive(view.now)} for each in view.servers],
        }

    def route(self, name: str) -> dict[str, Any]:
        """
        All about one route: its row, what the policy declares, its last changes.

        @raise UnknownRouteError: If there is none.
        """
        route = self._find(name)
        view = self._view(route)
        row = view.row(route)
        row.update(
            self._overrides(view),
            outcomes=list(route.outcomes),
            ignore=list(route.ignore),
            tolerate=dict(route.tolerate),
            stream=route.stream,
            subject=str(route.selector),
            canary_weight=number(route.weight),
            start=route.stage.value,
            audit=self.audit(route.name, limit=20),
        )
        return row

    def loop(self, name: str, limit: int = 5) -> dict[str, Any]:
        """
        All about one background loop: its row, how its dry run differed from its
        owner, each difference with the newest tick that shows it, its last changes.

        @raise UnknownLoopError: If there is none.
        """
        loop = self._find_loop(name)
        key = loop_key(name)
        view = self._view()
        row = view.loop_row(loop)
        counted = view.counted.get(key)
        row["differences"] = (
            [] if self.store is None or not counted else self._shown(self.store, key, counted[0].identity, limit)
        )
        row["audit"] = [] if self.store is None else [change_row(each) for each in self.store.audit(name, limit=20)]
        return row

    def audit(self, name: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """
        The latest changes, newest first.
        """
        if self.store is None:
            return []
        if name is not None and name not in {loop.name for loop in self.config.loops}:
            name = self._find(name).name
        return [change_row(change) for change in self.store.audit(name, limit=limit)]

    def snapshot(self) -> Snapshot:
        """
        All stages that the state has.
        """
        return self.known if self.store is None else self.store.snapshot()

    # -- moving --------------------------------------------------------------------

    def move(
        self,
        name: str,
        stage: Stage,
        *,
        who: str,
        why: str,
        weight: float | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """
        Move a route, if the rules allow it, and log who, when and why.  Into the shadow
        with a reason, evidence that speaks against modern begins anew: what differed may
        have been in the data, which no identity of the code knows of.

        @param weight: Percent for a canary; the policy's, if not given.
        @raise RefusedChangeError: If they don't.
        @raise StaleChangeError: If it was moved in the meantime.
        """
        route = self._find(name)
        self.config.need(f"stage:{stage.value}", f"The stage {stage.value!r}")
        assert self.store is not None
        view = View(self.config, self.snapshot(), self.rule, self.identities, self.clock())
        old, new = view.standing(route), target(route, stage, weight)
        forward = is_forward(old, new)
        anew = stage is Stage.SHADOW and bool(why.strip())
        if forward or anew:  # a way back reads no evidence
            view = view.filled(self.store, route.name)
        ruling, tally = view.ruling(route)
        # Clean evidence is nothing that a reason takes away.
        anew = anew and (tally.rejected or _ever_differed(tally))
        check_move(
            route.name,
            old,
            new,
            passing=ruling.passing,
            reading=ruling.why,
            modern=self.config.modern is not None,
            force=force,
            why=why,
        )
        change = self.store.set_stage(
            route.name,
            *new,
            who=who,
            why=why,
            forced=force,
            evidence=self._kept(route, view.identity(route), ruling, tally) if forward or anew else None,
            start=start(route),
            expect=old,
            at=self.clock(),
            anew=anew,
        )
        made = moved(route.name, old, new, change) | ({"anew": True} if anew else {})
        return made if stage is Stage.LEGACY else made | self._overruled()

    def rollback(self, name: str | None, *, who: str, why: str) -> dict[str, Any]:
        """
        Send one route, or with None all, back to legacy: C{moved}, and C{left}, which says
        of everything else where it stays and why (empty where one route is meant).

        @raise RefusedChangeError: If the one is retired: it has nowhere to go back to.
        """
        if name is None:
            return back_all(self, who=who, why=why)
        return {"moved": [back(self, name, who=who, why=why)], "left": []}

    def hand_off(self, loop: str, stage: str, *, who: str, why: str) -> dict[str, Any]:
        """
        Have a background loop run on another side.

        @raise UnknownLoopError: If the policy names no such loop.
        @raise RefusedChangeError: If a loop doesn't go there from where it is.
        """
        found = self._find_loop(loop)
        self.config.need(f"loop-stage:{stage}", f"The stage {stage!r} of a loop")
        old = LoopStage(self.snapshot().loops.get(loop, found.stage))
        new = LoopStage(stage)
        check_move_of_loop(loop, old, new)
        if new is not LoopStage.LEGACY and found.modern is None:
            raise RefusedChangeError(loop, stage, "the policy names no modern loop", "Add modern = NAME to it.")
        assert self.store is not None
        seen = {}
        if (old, new) == (LoopStage.OBSERVE, LoopStage.LIVE):
            # Nothing is refused for what a dry run showed, but who moves is told.
            view = View(self.config, self.snapshot(), self.rule, self.identities, self.clock())
            seen["observed"] = view.filled(self.store, loop_key(loop)).loop_row(found)["observed"]
        change = self.store.set_loop_stage(
            loop, stage, who=who, why=why, start=found.stage, from_stage=old.value, at=self.clock()
        )
        return {
            **seen,
            **({} if new.owner is Side.LEGACY else self._overruled()),
            "loop": loop,
            "from": {"stage": old.value, "weight": 0},
            "to": {"stage": new.value, "weight": 0},
            "changed": change is not None,
            "audit": None if change is None else change.id,
        }

    def answer(self, name: str, rule: str, status: str, *, who: str) -> dict[str, Any]:
        """
        Accept or refuse a rule that A/A pairs suggested.  An accepted one makes other
        evidence, so it counts from the next start or reload on, never in between.

        @param status: "accepted" or "refused".
        @raise RefusedChangeError: If no such rule was proposed.
        """
        route = self._find(name)
        assert self.store is not None
        if not self.store.answer_proposal(route.name, rule, status, who, self.clock()):
            known = [proposal.rule for proposal in self.store.proposals(route.name)]
            there = f"Proposed are: {', '.join(known)}." if known else "None was proposed yet."
            raise RefusedChangeError(route.name, status, f"no rule {rule!r} was proposed for it", there)
        return {"route": route.name, "rule": rule, "status": status, "owner": who}

    # -- evidence ------------------------------------------------------------------

    def differences(self, name: str, limit: int = 10) -> dict[str, Any]:
        """
        How a route's sides differ: each fingerprint with its count and the newest
        request that shows it, the most frequent first; and what was proposed.
        """
        route = self._find(name)
        return self._differences(route, self._view(route), limit)

    def _differences(self, route: RouteConfig, view: View, limit: int) -> dict[str, Any]:
        identity, tally = view.identity(route), view.tally(route)
        made: dict[str, Any] = {
            "route": route.name,
            "identity": identity,
            "counts": dict(tally.counts),
            "differences": [],
            "proposals": [],
        }
        if self.store is None or identity is None:
            return made
        made["differences"] = self._shown(self.store, route.name, identity, limit)
        made["proposals"] = [attrs.asdict(proposal) for proposal in self.store.proposals(route.name)]
        return made

    def _shown(self, store: Store, name: str, identity: str, limit: int) -> list[dict[str, Any]]:
        rows = []
        for found in store.fingerprints(name, identity)[:limit]:
            samples = store.samples(name, found.fingerprint, limit=1)
            rows.append({**attrs.asdict(found), "sample": json.loads(samples[0].text) if samples else None})
        return rows

    def evidence(self, name: str) -> dict[str, Any]:
        """
        The counters that the gate rules on, and what it says.
        """
        route = self._find(name)
        view = self._view(route)
        ruling, tally = view.ruling(route)
        return {
            "route": route.name,
            "identity": view.identity(route),
            "stage": tally.stage,
            "seconds": tally.seconds,
            "counts": dict(tally.counts),
            "gate": ruling.action.value,
            "passing": ruling.passing,
            "why": ruling.why,
        }

    def report(self, limit: int = 20) -> dict[str, Any]:
        """
        The whole migration: where everything stands, the most frequent differences
        of each route that has any, and the latest changes.
        """
        view = self._view()
        made = self._status(view)
        stages = [row["stage"] for row in made["routes"]]
        made["stages"] = {stage.value: stages.count(stage.value) for stage in Stage if stage.value in stages}
        made["differences"] = [
            found
            for route in self._routes()
            if _ever_differed(view.tally(route)) and (found := self._differences(route, view, 3))["differences"]
        ]
        made["audit"] = self.audit(limit=limit)
        return made

    # -- inside --------------------------------------------------------------------

    def _overruled(self) -> dict[str, Any]:
        """
        On whom a move doesn't count yet, since legacy does everything there.
        """
        assert self.store is not None
        now = self.clock()
        names = [each.name for each in self.store.servers() if each.force_legacy and each.alive(now)]
        return {"overruled_on": names} if names else {}

    def _routes(self) -> tuple[RouteConfig, ...]:
        return (*self.config.routes, self.config.default_route)

    def _find_loop(self, name: str) -> LoopConfig:
        found = next((each for each in self.config.loops if each.name == name), None)
        if found is None:
            raise UnknownLoopError(name, [each.name for each in self.config.loops])
        return found

    def _find(self, name: str) -> RouteConfig:
        found = self.config.route(resolve(name, [route.name for route in self._routes()]))
        assert found is not None
        return found

    def _view(self, route: RouteConfig | None = None) -> View:
        view = View(self.config, self.snapshot(), self.rule, self.identities, self.clock())
        if self.store is None:
            return view
        return view.filled(self.store, None if route is None else route.name)

    def _kept(self, route: RouteConfig, identity: str | None, ruling: Ruling, tally: Tally) -> int | None:
        if self.store is None or identity is None:
            return None
        text = json.dumps({"why": ruling.why, "seconds": tally.seconds, "counts": dict(tally.counts)}, sort_keys=True)
        return self.store.add_evidence(route.name, identity, text, self.clock())


def _ever_differed(tally: Tally) -> bool:
    return any(name.endswith(f".{DIFFERENT}") for name in tally.counts)


def target(route: RouteConfig, stage: Stage, weight: float | None) -> tuple[Stage, float]:
    """
    Where a move leads: only a canary has a weight, and the policy knows which.
    """
    if stage is not Stage.CANARY:
        return stage, 0.0
    return stage, route.weight if weight is None else weight


def moved(name: str, old: tuple[Stage, float], new: tuple[Stage, float], change: Change | None) -> dict[str, Any]:
    """
    What a move came to, for JSON; C{changed} is false if it stood there already.
    """
    return {
        "route": name,
        "from": {"stage": old[0].value, "weight": number(old[1])},
        "to": {"stage": new[0].value, "weight": number(new[1])},
        "changed": change is not None,
        "audit": None if change is None else change.id,
    }


def change_row(change: Change) -> dict[str, Any]:
    """
    One row of the audit log, for JSON.
    """
    return {
        "id": change.id,
        "at": change.at,
        "who": change.who,
        ROUTE if change.kind == RULE else change.kind: change.name,
        "from": {"stage": change.old.stage, "weight": number(change.old.weight)},
        "to": {"stage": change.new.stage, "weight": number(change.new.weight)},
        "why": change.why,
        "forced": change.forced,
        "evidence": change.evidence,
    }
