"""
Running one row: what its function does decides how it ends, and nothing that it does is written twice.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from modern_fastapi.services import Services
from modern_fastapi.tasks.context import Cancelled, TaskContext
from modern_fastapi.tasks.kinds import Kind
from tests.modern.application import add, run, services
from tests.modern.test_rows import row


class Nothing(BaseModel):
    """
    No parameters.
    """


def teach(made: Services, function: Any, **more: Any) -> None:
    """
    Adds a kind called `test` to this application alone.
    """
    made.kinds = {**made.kinds, "test": Kind("test", Nothing, function, **more)}


async def begin(made: Services, **more: Any) -> tuple[str, asyncio.Task[None]]:
    """
    A task of kind `test`, being executed.
    """
    task_id = await add(made, "test", {"a": 1}, **more)
    return task_id, asyncio.get_running_loop().create_task(made.runner.execute(task_id))


async def beat(made: Services) -> None:
    """
    One heartbeat.
    """
    await made.runner.beat()


def test_timeout_is_a_failure(tmp_path: Path) -> None:
    """
    A function that takes too long fails, with words that say so.
    """

    async def forever(context: TaskContext, params: Nothing) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, forever)
            task_id, running = await begin(made, timeout=0.05, max_attempts=1)
            await running
            now = await row(made, task_id)
        assert ("FAILURE", "TimeoutError: ran longer than 0.05 seconds") == (now.status, now.error)

    run(scenario())


def test_cancel_waits_for_the_checkpoint(tmp_path: Path) -> None:
    """
    A thread is never cut: it ends at its next checkpoint, and only then the row is CANCELLED.
    """
    entered, go_on = threading.Event(), threading.Event()

    async def blocking(context: TaskContext, params: Nothing) -> None:
        def work() -> None:
            entered.set()
            assert go_on.wait(20)
            context.progress(0.5)
            raise AssertionError("the checkpoint let it go on")

        await context.in_thread(work)

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, blocking)
            task_id, running = await begin(made)
            await asyncio.to_thread(entered.wait, 20)
            made.runner.stop(task_id, Cancelled)
            assert "RUNNING" == (await row(made, task_id)).status
            go_on.set()
            await running
            assert "CANCELLED" == (await row(made, task_id)).status

    run(scenario())


def test_cancelled_waiting_still_waits_for_the_thread(tmp_path: Path) -> None:
    """
    A row is given back only when its thread has ended: a thread that still writes is not a finished one.

    Seen to fail with a bare `run_in_executor` in `in_thread`: the row is PENDING while the thread runs on.
    """
    entered, go_on = threading.Event(), threading.Event()

    async def blocking(context: TaskContext, params: Nothing) -> None:
        await context.in_thread(lambda: (entered.set(), go_on.wait(20), context.checkpoint()))

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, blocking)
            task_id, running = await begin(made)
            await asyncio.to_thread(entered.wait, 20)
            running.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            assert "RUNNING" == (await row(made, task_id)).status
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await running
            now = await row(made, task_id)
        assert ("PENDING", None, 1, 0) == (now.status, now.owner, now.attempts, now.failures)

    run(scenario())


def test_unknown_name_fails(tmp_path: Path) -> None:
    """
    A row of a newer program is no riddle: it says what is missing here.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            task_id = await add(made, "moon.land", {"a": 1}, max_attempts=1)
            await made.runner.execute(task_id)
            now = await row(made, task_id)
        assert ("FAILURE", "LookupError: this process knows no task 'moon.land'") == (now.status, now.error)

    run(scenario())


def test_progress_is_written_by_the_heartbeat(tmp_path: Path) -> None:
    """
    A function may call progress as often as it likes: the table hears once a second.
    """
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: TaskContext, params: Nothing) -> None:
        context.progress(0.25)
        reached.set()
        await go_on.wait()

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, slow)
            task_id, running = await begin(made)
            await reached.wait()
            assert 0.0 == (await row(made, task_id)).progress
            await beat(made)
            assert 0.25 == (await row(made, task_id)).progress
            go_on.set()
            await running

    run(scenario())


def test_lost_row_stops_its_function(tmp_path: Path) -> None:
    """
    Who was rescued while he still ran hears of it at the next heartbeat, and writes nothing.
    """
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: TaskContext, params: Nothing) -> None:
        reached.set()
        await go_on.wait()
        context.checkpoint()
        raise AssertionError("the checkpoint let it go on")

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, slow)
            task_id, running = await begin(made)
            await reached.wait()
            async with made.database.write() as connection:
                await made.rows.rescue(connection, [(task_id, 1, 0)])
            await beat(made)
            go_on.set()
            await running
            now = await row(made, task_id)
        assert ("PENDING", 1, None) == (now.status, now.rescues, now.error)

    run(scenario())
