"""
Owns SIGHUP: the policy file is read again, and what a running server can change of it
counts from the next request on.

Refuses: to give up what works for what doesn't.  A broken file keeps the old policy, and
says so; what only a restart changes is named.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
from twisted.logger import Logger

from bridge.compose.stages import Stages
from bridge.config import Config
from bridge.errors import BridgeError
from bridge.policy import needs_restart, reload

_log = Logger()


@attrs.define(eq=False)
class Reloader:
    """
    @ivar path: The policy's file.
    @ivar reread: Told of the new policy before it counts, to make what belongs to it.
    @ivar asked: Whether SIGHUP came while the server was still starting.
    """

    path: Path
    built: frozenset[str]
    stages: Stages
    reread: Callable[[Config], Awaitable[None]]
    asked: bool = attrs.field(default=False, init=False)
    _loop: asyncio.AbstractEventLoop | None = attrs.field(default=None, init=False)
    _before: Any = attrs.field(default=None, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def install(self) -> None:
        """
        From now on SIGHUP ends nothing; it reloads from L{begin} on.
        """
        # Not the loop's own way: that takes the wake-up descriptor from whoever has it, and no loop runs yet.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGHUP, self._heard)

    def begin(self) -> None:
        """
        The server is up: reload what was asked for, and at each SIGHUP.
        """
        self._loop = asyncio.get_running_loop()
        if self.asked:
            self._begin()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.asked = True
        else:
            self._loop.call_soon_threadsafe(self._begin)

    def uninstall(self) -> None:
        """
        SIGHUP means again what it meant before.
        """
        if self._before is not None:
            signal.signal(signal.SIGHUP, self._before)
            self._before = None

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self.reload(), name="reload")

    async def reload(self) -> None:
        """
        Read the file again, now.
        """
        old = self.stages.config
        try:
            text = self.path.read_text(encoding="utf-8")
            new = reload(old, text, self.built)
            await self.reread(new)
            self.stages.reload(new)
        except (OSError, UnicodeDecodeError, BridgeError) as error:
            _log.error("The policy stays as it was: {error}", error=error)
            return
        _log.info("The policy was read again from {path}.", path=str(self.path))
        fixed = needs_restart(old, text, self.built)
        if fixed:
            _log.warn("Only a restart changes: {keys}.", keys=", ".join(fixed))
