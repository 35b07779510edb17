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

    async def wait(self, seconds: float) -> bool:
        """
        Returns True at a ring, or False after ``seconds``.
        """
        # Not wait_for: in Python 3.11 it loses a cancellation that comes together with the ring.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        rung = self._event.is_set()
        self._event.clear()
        return rung
