"""
Owns the operator's hand on one running server: what the admin API asks, answered from
the state on the state's thread, and carried out in this process before the answer.

Refuses: to decide what is allowed; the state's desk does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from bridge.background.ownership import LoopStage
from bridge.background.supervisor import LoopSupervisor
from bridge.compose.evidence import Evidence
from bridge.compose.stages import Stages
from bridge.errors import RefusedChangeError, StateError, StateUnavailableError
from bridge.routing import Stage, resolve
from bridge.state.database import shown_url
from bridge.state.desk import Desk, moved
from bridge.state.rollback import back, left, movable
from bridge.state.stages import Snapshot
from bridge.state.store import Store
from bridge.state.thread import StateThread

_T = TypeVar("_T")
# Seconds that the status waits for the state, before it says what this process knows.
_PATIENCE = 3.0


@attrs.define(eq=False)
class ServerControl:
    """
    L{bridge.admin.Control} of one process.
    """

    stages: Stages
    thread: StateThread
    _evidence: Evidence
    _loops: tuple[LoopSupervisor, ...] = ()

    async def _ask(self, question: Callable[[Desk], _T]) -> _T:
        config, rule, identities = self.stages.config, self._evidence.rule, self._evidence.identity
        return await self.thread.call(lambda store: question(Desk(config, store, rule, identities)))

    async def _move(self, change: Callable[[Desk], _T]) -> _T:
        config, rule, identities = self.stages.config, self._evidence.rule, self._evidence.identity

        def work(store: Store) -> tuple[_T, Snapshot]:
            return change(Desk(config, store, rule, identities)), store.snapshot()

        done, snapshot = await self.thread.call(work)
        # Not at the next look: it counts in this process when the answer goes out.
        self.stages.follow(snapshot)
        return done

    async def status(self) -> dict[str, Any]:
        """
        While the state can't be read, what this process knows.
        """
        found = None
        if self.thread.health().problem is None:
            # Whoever asks in trouble must not wait for the database's patience, nor for others'.
            with contextlib.suppress(StateError, TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    found = await self._ask(lambda desk: desk.status())
        if found is None:
            found = Desk(self.stages.config, None, known=self.stages.known()).status()
        for row in found["routes"]:
            if row["route"] in self.stages.pinned:
                row["recorded"] = False
        for row in found["loops"]:
            self._seen_here(row)
        found["evidence"] = self._evidence.health()
        found["state"] = {"url": shown_url(self.stages.config.state), **attrs.asdict(self.thread.health())}
        return found

    def _seen_here(self, row: dict[str, Any]) -> None:
        """
        What only the process that runs a loop knows of it.
        """
        for loop in self._loops:
            seen = loop.status()
            if row["loop"] == seen.name and seen.here:
                row.update(restarts=seen.restarts, last_error=seen.last_error)
                if seen.observed is not None:
                    row["observed"] = {**row.get("observed", {}), **seen.observed}

    async def loop(self, name: str, limit: int = 5) -> dict[str, Any]:
        row = await self._ask(lambda desk: desk.loop(name, limit))
        self._seen_here(row)
        return row

    async def route(self, name: str) -> dict[str, Any]:
        return await self._ask(lambda desk: desk.route(name))

    async def audit(self, name: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        return await self._ask(lambda desk: desk.audit(name, limit))

    async def evidence(self, name: str) -> dict[str, Any]:
        return await self._ask(lambda desk: desk.evidence(name))

    async def differences(self, name: str, limit: int = 10) -> dict[str, Any]:
        return await self._ask(lambda desk: desk.differences(name, limit))

    async def report(self, limit: int = 20) -> dict[str, Any]:
        return await self._ask(lambda desk: desk.report(limit))

    async def move(
        self, name: str, stage: Stage, *, who: str, why: str, weight: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        if stage is Stage.LEGACY and not force:
            moved: dict[str, Any] = (await self.rollback(name, who=who, why=why))["moved"][0]
            return moved
        return await self._move(lambda desk: desk.move(name, stage, who=who, why=why, weight=weight, force=force))

    async def rollback(self, name: str | None, *, who: str, why: str) -> dict[str, Any]:
        """
        Back first, then the database: legacy answers even while that is slow or gone.
        """
        table = self.stages.table.value
        routes = {route.name: (route.stage, route.weight) for route in (*table.routes, table.default)}
        config, known = self.stages.config, self.stages.known()
        names = [resolve(name, list(routes))] if name is not None else movable(config, known)
        named = {each: routes[each] for each in names}
        for route in named:
            self.stages.pin(route, Stage.LEGACY)
        try:
            done = await self._move(lambda desk: [back(desk, route, who=who, why=why) for route in named])
        except StateUnavailableError as error:
            # It stays pinned, and is written once the state can be.
            for route, (stage, _) in named.items():
                self._evidence.seat.back(route, stage, f"{why} (by {who})", "")
            said = {"changed": True, "problem": str(error)}
            done = [moved(route, old, (Stage.LEGACY, 0.0), None) | said for route, old in named.items()]
        except BaseException:
            for route in named:
                self.stages.unpin(route)
            raise
        else:
            for route in named:
                self.stages.unpin(route)
        return {"moved": done, "left": left(config, known, named) if name is None else []}

    async def answer(self, name: str, rule: str, status: str, *, who: str) -> dict[str, Any]:
        return await self._ask(lambda desk: desk.answer(name, rule, status, who=who))

    async def hand_off(self, loop: str, stage: str, *, who: str, why: str) -> dict[str, Any]:
        if stage == LoopStage.OBSERVE.value:
            for each in self._loops:
                if each.name == loop and each.unobservable:
                    raise RefusedChangeError(loop, stage, "it can't be observed", each.unobservable)
        return await self._move(lambda desk: desk.hand_off(loop, stage, who=who, why=why))
