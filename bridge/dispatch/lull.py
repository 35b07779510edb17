"""
Owns the moment at which work that nobody waits for may take the loop: when it has just
turned around with next to nothing to do.

A request is several turns of the loop: its bytes, its handler, what the handler awaits.
So one short turn is no sign, and two are. Whoever waits is let in one at a time, and
what it then does is itself a long turn to the next.

Refuses: to wait for ever. A loop that never comes to rest gives way after a while, or
shadows of a busy server would never run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs

# Seconds: a turn without work takes three to ten microseconds, and a request more than thirty.
_SHORT = 30e-6
_IN_A_ROW = 2


@attrs.define(eq=False)
class Lull:
    """
    The moments of one loop. Runs on its thread.

    @ivar patience: Seconds that one waits at most; C{turns} of the loop, where it turns
        so slowly that none of them seems short.
    """

    clock: Callable[[], float]
    patience: float = 0.1
    turns: int = 500
    _door: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    async def wait(self, behind: int = 0) -> None:
        """
        Until nobody else seems to need the loop, or patience ends.

        @param behind: How many wait for this one. All of them share its patience, so that
            they get on about as fast as they come.
        """
        async with self._door:
            clock = self.clock
            began = last = clock()
            patience = self.patience / (1 + behind)
            short = 0
            for _ in range(self.turns):
                await asyncio.sleep(0)
                now = clock()
                short = short + 1 if now - last < _SHORT else 0
                if short >= _IN_A_ROW or now - began >= patience:
                    return
                last = now
