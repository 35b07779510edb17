"""
Owns the idle timeout of one connection: one timer that looks how long ago something
was heard, instead of one that is set again for each request.

Refuses: to decide whose turn it is; the connection knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from twisted.logger import Logger

# Twisted's patience with a peer that doesn't take what is left for it.
ABORT = 15.0


class Patience:
    """
    Closes a connection on which the peer is silent for too long.

    @ivar heard: When something came, in the loop's time; the connection sets it.
    """

    _log = Logger()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        seconds: Callable[[], float | None],
        waiting: Callable[[], bool],
        abort: Callable[[], float | None] = lambda: ABORT,
    ) -> None:
        """
        @param seconds: How long a peer may be silent now; None for ever.
        @param waiting: Whether it is the peer's turn.
        @param abort: How long it may take what is left for it after that; None for ever.
        """
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._waiting = waiting
        self._abort = abort
        self._timer: asyncio.TimerHandle | None = None
        self.heard = loop.time()
        self._arm(seconds())

    def _arm(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        seconds = self._seconds()
        if seconds is None or self._transport.is_closing():
            return
        if not self._waiting():
            self._arm(seconds)
            return
        left = self.heard + seconds - self._loop.time()
        if left > 0:
            self._arm(left)
            return
        self._log.info("Timing out client: {peer}", peer=self._transport.get_extra_info("peername"))
        self._transport.close()
        abort = self._abort()
        if abort is not None:
            self._timer = self._loop.call_later(abort, self._force)

    def _force(self) -> None:
        self._timer = None
        self._log.info("Forcibly timing out client: {peer}", peer=self._transport.get_extra_info("peername"))
        self._transport.abort()

    def cancel(self) -> None:
        """
        The connection is gone, or somebody else's.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
