"""
How a request hands work over: rows in its own transaction first, and only after the answer a word to the engine.

What is in the table survives everything that comes later, so that a lost word costs a second, never a task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import BackgroundTasks
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.effects import Effects

from .rows import NewTask

if TYPE_CHECKING:
    from modern_fastapi.services import Services


T = TypeVar("T")


class Submissions:
    """
    The tasks of one request.
    """

    def __init__(self, services: Services, background: BackgroundTasks, effects: Effects) -> None:
        self._services = services
        self._background = background
        self._effects = effects

    async def write(self, work: Callable[[Batch], Coroutine[Any, Any, T]]) -> T:
        """
        What ``work`` answers: one write transaction for the request's own rows and its tasks, in which it awaits
        nothing but its batch. The engine hears of the tasks after the answer, and only when the transaction was
        committed.
        """

        async def write(connection: AsyncConnection) -> tuple[Batch, T]:
            batch = Batch(self._services, connection, self._effects)
            return batch, await work(batch)

        batch, answer = await self._services.database.work(write)
        batch.announce()
        self._background.add_task(self._services.engine.start, batch.task_ids)
        return answer

    async def submit(
        self, name: str, params: BaseModel, *, key: str | None = None, delay: float = 0.0, priority: int = 0
    ) -> str:
        """
        One task in a transaction of its own; its id.
        """
        return await self.write(lambda batch: batch.submit(name, params, key=key, delay=delay, priority=priority))


class Batch:
    """
    What one transaction of a request has submitted so far.
    """

    def __init__(self, services: Services, connection: AsyncConnection, effects: Effects) -> None:
        self.connection = connection
        self.task_ids: list[str] = []
        self._services = services
        self._effects = effects
        self._made: list[tuple[str, str, Any]] = []

    async def submit(
        self,
        name: str,
        params: BaseModel,
        *,
        after: str | None = None,
        key: str | None = None,
        delay: float = 0.0,
        priority: int = 0,
    ) -> str:
        """
        Adds a row for the task ``name`` and returns its id.

        ``after`` is a task that has to end first, whatever it ends as; ``key`` is unique for all time: where it is
        taken, the id of that task comes back. ``delay`` is in seconds; a higher ``priority`` goes first.
        """
        kind = self._services.kinds[name]
        values = kind.params.model_validate(params.model_dump()).model_dump()
        task = NewTask(name, values, after, key, delay, priority, kind.max_attempts, kind.timeout, kind.expires_in)
        task_id = await self._services.rows.add(self.connection, task, self._services.engine.name)
        self.task_ids.append(task_id)
        self.created("row", f"tasks:{name}", values)
        return task_id

    def created(self, kind: str, key: str, value: Any) -> None:
        """
        Notes something that this transaction makes, for whoever watches the request's effects.
        """
        self._made.append((kind, key, value))

    def announce(self) -> None:
        """
        Reports what was committed.
        """
        for effect in self._made:
            self._effects(*effect)
