"""
Owns what the garbage collector costs the loop.

A full collection looks at everything that is alive, and holds the loop meanwhile: for two applications' modules some
tens of milliseconds, every few seconds under load. What is alive when a server is up stays alive until it goes down, so
it is put aside then, and a full collection looks at what requests left behind: two milliseconds.

Refuses: to decide for who decided. A process that has switched the collector off is left as it is.
"""

from __future__ import annotations

import gc


class Heap:
    """
    What was alive at the start of one server. Of the process, like the collector.
    """

    def __init__(self) -> None:
        self._put_aside = False

    async def put_aside(self) -> None:
        """
        Collect once more, then take what is left out of all later collections. Blocks for as long as one takes.
        """
        if gc.isenabled():
            gc.collect()
            gc.freeze()
            self._put_aside = True

    async def take_back(self) -> None:
        """
        The server has gone down, and what it was is garbage like any other.
        """
        if self._put_aside:
            self._put_aside = False
            gc.unfreeze()
