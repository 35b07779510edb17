"""
Owns noticing that a child process ended, on any event loop.

SIGCHLD is not used: uvloop keeps the wake-up descriptor for itself, and on asyncio any later
C{add_signal_handler} takes it away, and the exit goes unnoticed either way. Each child has a
pidfd on the loop instead; where the kernel has none, it is polled.

Refuses: to wait for processes that Twisted didn't spawn.
"""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, TimerHandle
from contextvars import Context
from typing import Protocol

import attrs

#: Seconds between two looks where there is no pidfd.
_POLL = 0.05


class Child(Protocol):
    """
    What L{twisted.internet.process} gives us to work with.
    """

    pid: int | None

    def reapProcess(self) -> None:
        """
        Collect the status, if there is one, and tell the process protocol.
        """


@attrs.define
class Nursery:
    """
    The children that haven't ended yet. Runs on the loop's thread.
    """

    _loop: AbstractEventLoop
    _watched: dict[int, Child] = attrs.field(factory=dict, init=False)
    _polled: dict[int, TimerHandle] = attrs.field(factory=dict, init=False)

    def watch(self, child: Child) -> None:
        """
        See to it that C{child} is reaped soon after it ends.
        """
        pid = child.pid
        if pid is None:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self._poll(pid, child)
            return
        self._watched[descriptor] = child
        # In an empty context: whoever spawned the child must not be kept alive by it.
        Context().run(self._loop.add_reader, descriptor, self._ended, descriptor)

    def _ended(self, descriptor: int) -> None:
        child = self._forget(descriptor)
        # Twisted also looks for itself when the child's pipes close.
        if child.pid is not None:
            child.reapProcess()

    def _forget(self, descriptor: int) -> Child:
        child = self._watched.pop(descriptor)
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        return child

    def _poll(self, pid: int, child: Child) -> None:
        self._polled.pop(pid, None)
        if child.pid is None:
            return
        child.reapProcess()
        if child.pid is not None:
            self._polled[pid] = self._loop.call_later(_POLL, self._poll, pid, child, context=Context())

    def close(self) -> None:
        """
        Stop watching; children that still run are left to the init process.
        """
        for descriptor in list(self._watched):
            self._forget(descriptor)
        for handle in self._polled.values():
            handle.cancel()
        self._polled.clear()
