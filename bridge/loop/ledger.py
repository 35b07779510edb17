"""
Owns the one account of threads: who may use how many, and who uses them now.

Each side has a share of its own, and so do shadows and look-ups of names; none can use up another's.
`deferToThread` and anyio's threads are booked here alike, by whose work they do.

Refuses: anything once it is closed. It doesn't run threads, and knows no loop; all of it may be called
from any thread.
"""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import attrs

from bridge.errors import StoppingError
from bridge.loop.context import about


class Share(enum.Enum):
    """
    Who a thread works for.
    """

    LEGACY = "legacy"
    MODERN = "modern"
    SHADOW = "shadow"
    NAMES = "names"


#: Each side as it would have it alone (Twisted's pool has 10, anyio 40); shadows come on top.
LIMITS: Mapping[Share, int] = {Share.LEGACY: 10, Share.MODERN: 40, Share.SHADOW: 8, Share.NAMES: 6}


def share_of_current(default: Share) -> Share:
    """
    The share of the request in hand, or C{default} where there is none.
    """
    facts = about()
    if facts.shadow:
        return Share.SHADOW
    if facts.side == Share.LEGACY.value:
        return Share.LEGACY
    if facts.side == Share.MODERN.value:
        return Share.MODERN
    return default


@attrs.frozen
class Usage:
    """
    One share at one moment.
    """

    limit: int
    busy: int
    waiting: int


@attrs.define
class _Account:
    limit: int
    busy: int = 0
    waiting: OrderedDict[object, Callable[[], object]] = attrs.field(factory=OrderedDict)


@attrs.define
class Ledger:
    """
    The account. A slot is taken for a job, and given back when its thread has ended it.
    """

    _accounts: dict[Share, _Account] = attrs.field(init=False)
    _limits: Mapping[Share, int] = attrs.field(default=LIMITS)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._accounts = {share: _Account(self._limits.get(share, LIMITS[share])) for share in Share}

    def take_or_wait(self, share: Share, what: object, ready: Callable[[], object]) -> bool:
        """
        Take a slot and return True; or return False, and call C{ready} once a slot has been taken for it, on the
        thread that gave it back.

        @param what: Identifies the waiter, for L{forget}.
        @raise StoppingError: The account is closed.
        """
        with self._lock:
            if self._closed:
                raise StoppingError(f"Work for a {share.value} thread")
            account = self._accounts[share]
            if account.busy < account.limit and not account.waiting:
                account.busy += 1
                return True
            account.waiting[what] = ready
            return False

    def forget(self, share: Share, what: object) -> bool:
        """
        Give up waiting. False if a slot has been taken already: it has to be given back.
        """
        with self._lock:
            return self._accounts[share].waiting.pop(what, None) is not None

    def give_back(self, share: Share) -> None:
        """
        A thread is through with its job.
        """
        ready = None
        with self._lock:
            account = self._accounts[share]
            account.busy -= 1
            if account.waiting and account.busy < account.limit:
                account.busy += 1
                _, ready = account.waiting.popitem(last=False)
        if ready is not None:
            ready()

    def limit(self, share: Share) -> int:
        """
        How many threads the share may use.
        """
        return self._accounts[share].limit

    def set_limit(self, share: Share, limit: int) -> None:
        """
        Change a share. Raised, it lets waiters in at once; lowered, it takes effect as jobs end.
        """
        let_in: list[Callable[[], object]] = []
        with self._lock:
            account = self._accounts[share]
            account.limit = limit
            while account.waiting and account.busy < limit:
                account.busy += 1
                let_in.append(account.waiting.popitem(last=False)[1])
        for ready in let_in:
            ready()

    def close(self) -> None:
        """
        Refuse from now on.
        """
        with self._lock:
            self._closed = True

    @property
    def closed(self) -> bool:
        """
        Whether it refuses.
        """
        return self._closed

    def waiting(self) -> list[object]:
        """
        Whoever waits for a slot.
        """
        with self._lock:
            return [what for account in self._accounts.values() for what in account.waiting]

    def usage(self) -> dict[Share, Usage]:
        """
        All shares at this moment.
        """
        with self._lock:
            return {
                share: Usage(account.limit, account.busy, len(account.waiting))
                for share, account in self._accounts.items()
            }
