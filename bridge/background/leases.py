"""
Owns what a supervisor asks of leases, wherever they are kept.

Refuses: to keep one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol


class Lease(Protocol):
    """
    A row that says who may run a loop.

    @ivar holder: C{side:boot-id}, or L{None} where nobody holds it.
    @ivar epoch: Raised by every change of holder, never lowered.
    @ivar renewals: Raised by the holder, so that others see it alive.
    """

    @property
    def holder(self) -> str | None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def renewals(self) -> int: ...


class Leases(Protocol):
    """
    Where leases are kept; each call raises L{StateError} while it can't be reached.
    """

    def lease(self, name: str) -> Awaitable[Any | None]:
        """
        The row as it is.
        """

    def acquire(
        self, name: str, holder: str, seen: Any | None, floor: int
    ) -> Awaitable[Any | None]:
        """
        Take it if it still is as C{seen}; L{None} if somebody was faster.  The new
        epoch is above the old one and above C{floor}.
        """

    def renew(self, lease: Any) -> Awaitable[Any | None]:
        """
        Say that the holder lives; L{None} if it isn't the holder any more.
        """

    def release(self, lease: Any) -> Awaitable[object]:
        """
        Give it back; the epoch stays.
        """
