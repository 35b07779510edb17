"""
Owns anyio's thread limiter: the same account as Twisted's threads, by whose work it is.

anyio frees a cancelled job's token at once, though its thread goes on; here the slot is held until the thread is done
with it. How that is known: the slot lies in a context variable while the job is handed over, the thread
runs in a copy of that context, and when the copy goes, so does the slot.

Refuses: to replace a limiter that the user passes explicitly; only the default one is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import anyio
from anyio import CapacityLimiterStatistics
from twisted.logger import Logger

from bridge.loop.ledger import Ledger, Share, share_of_current

_log = Logger()


class _Slot:
    """
    One thread's place in the account. Given back by hand, or when the last context that holds it is gone.
    """

    __slots__ = ("__weakref__", "_held", "_ledger", "share")

    def __init__(self, ledger: Ledger, share: Share) -> None:
        self._ledger = ledger
        self.share = share
        self._held = True

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._ledger.give_back(self.share)

    __del__ = give_back


_slot: ContextVar[_Slot | None] = ContextVar("bridge.loop.slot", default=None)


class AccountedLimiter(anyio.CapacityLimiter):
    """
    anyio's default thread limiter, booking on the ledger. C{total_tokens} is the modern side's share.
    """

    def __new__(cls, ledger: Ledger, loop: AbstractEventLoop) -> Self:
        return object.__new__(cls)

    def __init__(self, ledger: Ledger, loop: AbstractEventLoop) -> None:
        self._ledger = ledger
        self._loop = loop
        self._borrowed: dict[object, _Slot] = {}

    async def __aenter__(self) -> None:
        await self.acquire()
        _slot.set(self._borrowed[asyncio.current_task()])

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        _slot.set(None)
        slot = self._borrowed.pop(asyncio.current_task())
        if exc_type is None or not issubclass(exc_type, asyncio.CancelledError):
            slot.give_back()
        # Cancelled: the thread may still run. Its context holds the slot now, and nothing else does.

    @property
    def total_tokens(self) -> float:
        return self._ledger.limit(Share.MODERN)

    @total_tokens.setter
    def total_tokens(self, value: float) -> None:
        if not isinstance(value, int) and not math.isinf(value):
            raise TypeError("total_tokens must be an int or math.inf")
        if value < 0:
            raise ValueError("total_tokens must be >= 0")
        self._ledger.set_limit(Share.MODERN, value if isinstance(value, int) else 10**9)

    @property
    def borrowed_tokens(self) -> int:
        return self._ledger.usage()[Share.MODERN].busy

    @property
    def available_tokens(self) -> float:
        usage = self._ledger.usage()[Share.MODERN]
        return usage.limit - usage.busy

    def acquire_nowait(self) -> None:
        self.acquire_on_behalf_of_nowait(asyncio.current_task())

    def acquire_on_behalf_of_nowait(self, borrower: object) -> None:
        share = self._share(borrower)
        if not self._ledger.take_or_wait(share, borrower, _nobody):
            if not self._ledger.forget(share, borrower):
                self._ledger.give_back(share)
            raise anyio.WouldBlock
        self._borrowed[borrower] = _Slot(self._ledger, share)

    async def acquire(self) -> None:
        await self.acquire_on_behalf_of(asyncio.current_task())

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        share = self._share(borrower)
        turn = self._loop.create_future()
        if not self._ledger.take_or_wait(share, borrower, lambda: _let_in(self._loop, turn)):
            try:
                await turn
            except BaseException:
                if not self._ledger.forget(share, borrower):
                    self._ledger.give_back(share)
                raise
        self._borrowed[borrower] = _Slot(self._ledger, share)

    def _share(self, borrower: object) -> Share:
        if borrower in self._borrowed:
            raise RuntimeError("this borrower is already holding one of this CapacityLimiter's tokens")
        return share_of_current(Share.MODERN)

    def release(self) -> None:
        self.release_on_behalf_of(asyncio.current_task())

    def release_on_behalf_of(self, borrower: object) -> None:
        try:
            slot = self._borrowed.pop(borrower)
        except KeyError:
            raise RuntimeError("this borrower isn't holding any of this CapacityLimiter's tokens") from None
        slot.give_back()

    def statistics(self) -> CapacityLimiterStatistics:
        usage = self._ledger.usage()[Share.MODERN]
        return CapacityLimiterStatistics(usage.busy, usage.limit, tuple(self._borrowed), usage.waiting)


def _nobody() -> None:
    """
    Waits for nothing, and changes nothing.
    """


def _let_in(loop: AbstractEventLoop, turn: asyncio.Future[None]) -> None:
    # Refused where the loop is closed, and with it whoever waited.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, turn)


def _resolve(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def install_limiter(ledger: Ledger, loop: AbstractEventLoop) -> Callable[[], object]:
    """
    Make the limiter anyio's default on the running loop. Returns what puts the former one back: a loop that goes on
    after the reactor stopped must not be refused its threads.
    """
    try:
        # anyio has no public way to set it, only to get it.
        from anyio._backends._asyncio import _default_thread_limiter
    except ImportError:
        _log.warn("anyio's threads are counted apart: this version keeps its limiter somewhere else.")
        return _nobody
    variable: Any = _default_thread_limiter
    return functools.partial(variable.reset, variable.set(AccountedLimiter(ledger, loop)))
