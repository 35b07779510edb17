"""
The request log: one line for each request, written after its answer by a task of its own.

Requests put their line down and go on; the writer takes all that has gathered and appends it in one piece.
"""

import asyncio
import logging
from collections import deque
from typing import Any

from .bell import Bell
from .clock import Clock, as_text
from .files import Files

log = logging.getLogger(__name__)

FILE = "requests.log"
# A disk that takes no line for long must cost memory within bounds; what is lost then is counted.
WAITING = 100_000


class RequestLog:
    """
    The lines that wait to be written.
    """

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._lines: deque[dict[str, Any]] = deque()
        self._bell = Bell()
        self._lost = 0

    def add(self, method: str, path: str, status: int) -> None:
        """
        Notes one request that was answered.
        """
        if len(self._lines) >= WAITING:
            self._lost += 1
            return
        at = as_text(self._clock.now())
        self._lines.append({"at": at, "method": method, "path": path, "status": status})
        self._bell.ring()

    async def run(self) -> None:
        """
        Writes until it is cancelled.
        """
        while True:
            await self._bell.wait(3600.0)
            try:
                await self.flush()
            except OSError:
                log.exception("the request log cannot be written; its lines wait")
                await asyncio.sleep(1.0)
                self._bell.ring()

    async def flush(self) -> None:
        """
        Writes what waits.
        """
        if lines := list(self._lines):
            # Taken first: where we are cancelled meanwhile, the thread writes them all the same.
            self._lines.clear()
            try:
                await self._files.append(FILE, *lines)
            except OSError:
                self._lines.extendleft(reversed(lines))
                raise
        if self._lost:
            log.error("%d lines of the request log were lost", self._lost)
            self._lost = 0
