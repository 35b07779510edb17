"""
Owns what a running server leaves in the state for those who look at it alone: that it is
there, and whether legacy answers everything on it, whatever the stages say.

Refuses: to hold anything up.  While the state can't be written nobody hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import attrs

from bridge.beat import next_beat
from bridge.compose.stages import Stages
from bridge.errors import StateError
from bridge.state.store import Store
from bridge.state.thread import StateThread


@attrs.define(eq=False)
class Present:
    """
    One server's sign of life.

    @ivar name: Who it is.
    @ivar every: Seconds between two of them, on the beat of the leases.
    @ivar wall: A wall clock.
    """

    name: str
    thread: StateThread
    stages: Stages
    wall: Callable[[], float]
    every: float = 4.0
    _said: bool | None = attrs.field(default=None, init=False)
    _wake: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """
        Give it until cancelled.
        """
        clock = asyncio.get_running_loop().time
        while True:
            # Before it is read: what comes while it is written is for the next turn.
            self._wake.clear()
            self._said = self.stages.table.value.force_legacy
            # Who follows the state tells of its trouble.
            with contextlib.suppress(StateError):
                await self.thread.together()
                await self.thread.call(Store.present, self.name, self._said, self.wall())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), next_beat(clock(), self.every) - clock())

    def follow(self) -> None:
        """
        The table was swapped: what it overrides may be new.
        """
        if self._said is not None and self._said is not self.stages.table.value.force_legacy:
            self._wake.set()

    def leave(self) -> None:
        """
        The server stops: what is offered now is written before the state is closed.
        """
        self.thread.offer(Store.absent, self.name)
