"""
Owns the stages as one process sees them: the state's, and over them what was decided
here and isn't in the state yet.

A rollback counts in this process before any database is asked: it is swapped in first,
and written as soon as the state can be written.

Refuses: to let what was written here hide a later change; the overlay goes when the
state has it.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bridge.config import Config
from bridge.routing import Cell, RouteTable, Stage
from bridge.state.stages import Snapshot


@attrs.define(eq=False)
class Stages:
    """
    Runs on the loop's thread.

    @ivar table: What requests are decided by; swapped whole.
    @ivar snapshot: What the state said last.
    @ivar since: Wall-clock seconds at which a route came to its stage.
    @ivar wall: A wall clock.
    @ivar changed: Told after each swap.
    """

    config: Config
    table: Cell[RouteTable]
    snapshot: Snapshot
    since: dict[str, float]
    wall: Callable[[], float]
    changed: Callable[[], None] = lambda: None
    _pinned: dict[str, tuple[Stage, float]] = attrs.field(factory=dict, init=False)

    def follow(self, snapshot: Snapshot) -> None:
        """
        The state changed, here or in another process.
        """
        self.snapshot = snapshot
        self._swap()

    def reload(self, config: Config) -> None:
        """
        The policy changed.

        @raise BridgeError: If its routes can't stand together; the old one stays.
        """
        table = config.table(self.known().routes, self.snapshot.version)
        self.config = config
        self._take(table)

    def pin(self, route: str, stage: Stage, weight: float = 0.0) -> None:
        """
        Put a route somewhere now, whatever the state says, until L{unpin}.
        """
        self._pinned[route] = (stage, weight)
        self._swap()

    def unpin(self, route: str) -> None:
        """
        The state has it, or it is void.
        """
        if self._pinned.pop(route, None) is not None:
            self._swap()

    def known(self) -> Snapshot:
        """
        All stages as requests are decided by.
        """
        return attrs.evolve(self.snapshot, routes={**self.snapshot.routes, **self._pinned})

    @property
    def pinned(self) -> frozenset[str]:
        """
        The routes that stand somewhere the state doesn't know of yet.
        """
        return frozenset(self._pinned)

    def _swap(self) -> None:
        known = self.known()
        self._take(self.config.table(known.routes, known.version))

    def _take(self, table: RouteTable) -> None:
        before = self.table.value
        old = {route.name: (route.stage, route.weight) for route in (*before.routes, before.default)}
        self.table.swap(table)
        for route in (*table.routes, table.default):
            if old.get(route.name) != (route.stage, route.weight):
                self.since[route.name] = self.wall()
        self.changed()
