"""
Owns where everything stands in one running process: it follows the state, swaps the
table, and carries an operator's moves out here first or last, as is safe.

A move back is done here before it is recorded: in the worst night the database may
be what is broken.  If it can't be recorded at once, it counts in this process, is
said to be unrecorded, and is written when the database is back.  A move forward is
recorded first, and counts then.

Refuses: to wait for the database on the loop, and to know HTTP.  Everything here
runs on the loop's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import attrs

from bridge.config import Config, RouteConfig
from bridge.errors import StateError
from bridge.policy import reload
from bridge.routing import Cell, RouteTable, Stage
from bridge.routing.moves import check_move, is_forward
from bridge.state.desk import Desk, Rule, moved, start, target
from bridge.state.stages import Snapshot
from bridge.state.store import Store
from bridge.state.thread import StateThread

T = TypeVar("T")

_log = logging.getLogger("bridge.state")


_LEGACY = (Stage.LEGACY, 0.0)


def _nobody(snapshot: Snapshot) -> None:
    return None


@attrs.define(eq=False)
class Switchboard:
    """
    The stages of one process, and the hand that moves them.

    @ivar thread: None where the state can't be opened and force_legacy is set.
    @ivar snapshot: What the state said last.
    @ivar followed: Told of each new snapshot, after the table was swapped.
    @ivar rule: The gate of this process, as L{Desk} takes it.
    @ivar identities: The identity of the code that runs, by route.
    """

    config: Config
    table: Cell[RouteTable]
    thread: StateThread | None
    snapshot: Snapshot
    followed: Callable[[Snapshot], None] = _nobody
    rule: Rule | None = None
    identities: Callable[[str], str | None] = lambda route: None
    clock: Callable[[], float] = time.time
    _held: dict[str, tuple[Stage, float]] = attrs.field(factory=dict, init=False)

    # -- following -------------------------------------------------------------------

    def follow(self, snapshot: Snapshot) -> None:
        """
        The state changed, here or in another process: swap the table.
        """
        if snapshot.version < self.snapshot.version:
            return
        self.snapshot = snapshot
        for name, standing in list(self._held.items()):
            if snapshot.routes.get(name) == standing:
                del self._held[name]
        self._swap()
        self.followed(snapshot)

    def reload(self, text: str) -> Config:
        """
        Go on with the policy that its file has now.

        @raise ConfigError: If the file is broken; nothing has changed then.
        """
        self.config = reload(self.config, text)
        self._swap()
        return self.config

    def _swap(self) -> None:
        stages = {**self.snapshot.routes, **self._held}
        self.table.swap(self.config.table(stages, self.snapshot.version))

    # -- looking ---------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """
        L{Desk.status}; without the evidence, while the database can't be read.
        """
        try:
            found = await self._ask(lambda desk: desk.status())
        except StateError:
            found = Desk(self.config, None, known=self._known()).status()
        for row in found["routes"]:
            if row["route"] in self._held:
                stage, weight = self._held[row["route"]]
                row.update(stage=stage.value, weight=weight, recorded=False)
        found["state"] = self.health()
        return found

    async def route(self, name: str) -> dict[str, Any]:
        """
        L{Desk.route}.
        """
        return await self._ask(lambda desk: desk.route(name))

    async def audit(self, name: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """
        L{Desk.audit}.
        """
        return await self._ask(lambda desk: desk.audit(name, limit))

    async def evidence(self, name: str) -> dict[str, Any]:
        """
        L{Desk.evidence}.
        """
        return await self._ask(lambda desk: desk.evidence(name))

    async def differences(self, name: str, limit: int = 10) -> dict[str, Any]:
        """
        L{Desk.differences}.
        """
        return await self._ask(lambda desk: desk.differences(name, limit))

    async def report(self, limit: int = 20) -> dict[str, Any]:
        """
        L{Desk.report}.
        """
        return await self._ask(lambda desk: desk.report(limit))

    def health(self) -> dict[str, Any]:
        """
        How the state database is doing.
        """
        if self.thread is None:
            return {"url": self.config.state, "problem": "it couldn't be opened", "lost": 0, "waiting": 0}
        return {"url": self.config.state, **attrs.asdict(self.thread.health())}

    # -- moving ----------------------------------------------------------------------

    async def move(
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
        Move a route in this process, and record it for the others.

        @return: As L{Desk.move}; C{problem} says why a move back isn't recorded yet.
        @raise RefusedChangeError: If the rules don't allow it.
        @raise StateError: If a move forward can't be recorded; it isn't done then.
        """
        route = self.config.route(self.table.value.route(name).name)
        assert route is not None
        here = self._known().routes.get(route.name, start(route))
        new = target(route, stage, weight)
        if is_forward(here, new) or self.thread is None:
            done = await self._ask(
                lambda desk: desk.move(route.name, stage, who=who, why=why, weight=weight, force=force)
            )
            self._stands(route.name, new)
            return done
        check_move(
            route.name,
            here,
            new,
            passing=False,
            reading="",
            modern=self.config.modern is not None,
            force=force,
            why=why,
        )
        self._held[route.name] = new
        self._swap()
        return await self._record(route, here, new, who, why, force)

    async def rollback(self, name: str | None, *, who: str, why: str) -> list[dict[str, Any]]:
        """
        Send one route, or with None all, back to legacy; retired ones have nowhere
        to go back to, and are passed over where all are meant.
        """
        if name is not None:
            return [await self.move(name, Stage.LEGACY, who=who, why=why)]
        known = self._known().routes
        back = []
        for route in (*self.config.routes, self.config.default_route):
            here = known.get(route.name, start(route))
            if here[0] not in (Stage.LEGACY, Stage.RETIRED):
                back.append((route, here))
        # All of them at once, before the first is recorded.
        self._held.update({route.name: _LEGACY for route, _ in back})
        self._swap()
        return [await self._record(route, here, _LEGACY, who, why, False) for route, here in back]

    async def hand_off(self, loop: str, stage: str, *, who: str, why: str) -> dict[str, Any]:
        """
        L{Desk.hand_off}; the loops are told by the next snapshot.
        """
        return await self._ask(lambda desk: desk.hand_off(loop, stage, who=who, why=why))

    # -- inside ----------------------------------------------------------------------

    async def _record(
        self,
        route: RouteConfig,
        old: tuple[Stage, float],
        new: tuple[Stage, float],
        who: str,
        why: str,
        force: bool,
    ) -> dict[str, Any]:
        """
        Write down what counts here already, now or when the database is back.
        """
        assert self.thread is not None
        write = partial(Store.set_stage, who=who, why=why, forced=force, start=start(route), at=self.clock())
        try:
            change = await self.thread.call(write, route.name, *new)
        except StateError as error:
            _log.error("%s is at %s here, but that isn't recorded yet: %s", route.name, new[0].value, error)
            self.thread.offer(write, route.name, *new)
            return {**moved(route.name, old, new, None), "changed": old != new, "problem": str(error)}
        self._stands(route.name, new)
        return moved(route.name, old, new, change)

    def _known(self) -> Snapshot:
        return attrs.evolve(self.snapshot, routes={**self.snapshot.routes, **self._held})

    def _stands(self, name: str, standing: tuple[Stage, float]) -> None:
        self._held.pop(name, None)
        self.snapshot = attrs.evolve(self.snapshot, routes={**self.snapshot.routes, name: standing})
        self._swap()

    async def _ask(self, question: Callable[[Desk], T]) -> T:
        if self.thread is None:
            raise StateError(
                f"The state database {self.config.state} couldn't be opened, and force_legacy is set. "
                "Mend it and start again; until then nothing can be moved."
            )
        config, rule, identities = self.config, self.rule, self.identities

        def answer(store: Store) -> T:
            return question(Desk(config, store, rule, identities, self.clock))

        return await self.thread.call(answer)
