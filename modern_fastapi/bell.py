"""
Wakes those who wait for something new, once for any number of rings.
"""

import asyncio
import contextlib


class Bell:
    """
    An event with a timeout that clears itself. Rung and heard on the event loop.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """
        Wakes the one who waits, or the next one.
        """
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """
        Returns at a ring, or after ``seconds``.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
        self._event.clear()
