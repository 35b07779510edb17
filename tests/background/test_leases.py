"""
The leases of one process: what is due together is renewed together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from bridge.compose.loops import ThreadLeases
from bridge.errors import StateUnavailableError
from bridge.state.leases import Lease
from bridge.state.thread import StateThread


class Thread:
    """
    Counts the calls, and answers them by hand.
    """

    def __init__(self, answer: Callable[[list[Lease]], Any]) -> None:
        self.lots: list[list[str]] = []
        self.answer = answer

    async def together(self) -> None:
        await asyncio.sleep(0)

    async def call(self, function: Any, leases: list[Lease]) -> Any:
        self.lots.append([lease.name for lease in leases])
        await asyncio.sleep(0)
        return self.answer(leases)


def lease(name: str) -> Lease:
    return Lease(name, "legacy:a", 1, 0)


def test_renewals_that_are_due_together_are_one_write():
    """
    Each asker has its own answer, also that the lease is another's.
    """

    async def main() -> tuple[Thread, list[Lease | None]]:
        thread = Thread(lambda leases: [None if each.name == "b" else each for each in leases])
        leases = ThreadLeases(cast("StateThread", thread))
        found = await asyncio.gather(*(leases.renew(lease(name)) for name in "abc"))
        await leases.renew(lease("d"))
        return thread, found

    thread, found = asyncio.run(main())

    assert [["a", "b", "c"], ["d"]] == thread.lots
    assert [lease("a"), None, lease("c")] == found


def test_a_state_that_cannot_be_reached_is_told_to_each():
    """
    Nobody waits for a renewal that failed, and the next one is tried again.
    """

    def fail(leases: list[Lease]) -> Any:
        raise StateUnavailableError("memory:", "be written", "gone")

    async def main() -> list[Any]:
        thread = Thread(fail)
        leases = ThreadLeases(cast("StateThread", thread))
        failed = await asyncio.gather(*(leases.renew(lease(name)) for name in "ab"), return_exceptions=True)
        thread.answer = lambda leases: leases
        return [*failed, await leases.renew(lease("a"))]

    *failed, renewed = asyncio.run(main())

    assert all(isinstance(each, StateUnavailableError) for each in failed)
    assert lease("a") == renewed


def test_the_gathering_is_over_when_nobody_asks():
    """
    No task is left between two renewals.
    """

    async def main() -> int:
        leases = ThreadLeases(cast("StateThread", Thread(lambda each: each)))
        await leases.renew(lease("a"))
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert 1 == asyncio.run(main())
