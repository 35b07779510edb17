"""
One transaction for many: what is asked while one is under way goes into the next. The disk is asked once for all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """
    Gathers what is asked, and has it served a lot at a time by ``serve``, which answers in the same order. Used on one
    event loop.

    Where a lot fails each is served alone, so that nobody suffers from another's error.
    """

    def __init__(self, serve: Callable[[list[T]], Awaitable[list[R]]]) -> None:
        self._serve = serve
        self._asked: list[tuple[T, asyncio.Future[R]]] = []
        self._serving: asyncio.Task[None] | None = None

    def ask(self, what: T) -> asyncio.Future[R]:
        """
        Served by and by, also when the asker doesn't wait for it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._asked.append((what, future))
        if self._serving is None:
            self._serving = loop.create_task(self._run(), name="together")
        return future

    async def settled(self) -> None:
        """
        Returns when nothing that was asked is under way.
        """
        while self._serving is not None:
            await asyncio.wait([self._serving])

    async def _run(self) -> None:
        try:
            while self._asked:
                lot, self._asked = self._asked, []
                await self._serve_lot(lot)
        finally:
            self._serving = None

    async def _serve_lot(self, lot: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._serve([what for what, _ in lot])
        except Exception as error:
            if len(lot) > 1:
                for one in lot:
                    await self._serve_lot([one])
            elif not lot[0][1].done():
                lot[0][1].set_exception(error)
            return
        for (_, future), answer in zip(lot, answers, strict=True):
            if not future.done():
                future.set_result(answer)
