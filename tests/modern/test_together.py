"""
Many in one transaction, and writers of several loops in one queue.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from modern_fastapi.lanes import Turnstile
from modern_fastapi.schema import Task
from modern_fastapi.tasks.together import Together
from tests.modern.application import add, run, services
from tests.modern.test_rows import row
from tests.modern.test_runner import teach


def test_what_is_asked_meanwhile_is_served_together() -> None:
    """
    The first is served at once, all that come while it is go into one lot, and each has its own answer.
    """
    lots: list[list[int]] = []
    go_on = asyncio.Event()

    async def serve(asked: list[int]) -> list[int]:
        lots.append(asked)
        await go_on.wait()
        return [number * 2 for number in asked]

    async def scenario() -> None:
        together = Together(serve)
        first = together.ask(1)
        await asyncio.sleep(0)
        rest = [together.ask(number) for number in (2, 3, 4)]
        go_on.set()
        assert [2, 4, 6, 8] == await asyncio.gather(first, *rest)
        await together.settled()

    run(scenario())
    assert [[1], [2, 3, 4]] == lots


def test_one_error_is_nobody_elses() -> None:
    """
    A lot that fails is served one by one, and only who is at fault hears of it.

    Seen to fail with the error given to the whole lot.
    """

    async def serve(asked: list[int]) -> list[int]:
        if 2 in asked:
            raise ValueError("two")
        return asked

    async def scenario() -> None:
        together = Together(serve)
        ends = await asyncio.gather(*map(together.ask, (1, 2, 3)), return_exceptions=True)
        assert (1, 3) == (ends[0], ends[2])
        assert isinstance(ends[1], ValueError)

    run(scenario())


def test_a_claim_that_nobody_waits_for_is_given_back(tmp_path: Path) -> None:
    """
    Who is cancelled while his claim is on its way leaves no row that runs nowhere.

    Seen to fail with the claim awaited without its shield: the row stayed RUNNING.
    """

    async def never(context: object, params: object) -> None:
        raise AssertionError("it ran")

    async def scenario() -> None:
        async with services(tmp_path) as made:
            teach(made, never)
            task_id = await add(made, "test", {"a": 1}, engine="asyncio")
            async with made.database.write():  # so that the claim has to wait
                executing = asyncio.get_running_loop().create_task(made.runner.execute(task_id))
                await asyncio.sleep(0.01)
                executing.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(executing, return_exceptions=True)
            await made.runner.settled()
            now = await row(made, task_id)
            assert ("PENDING", None) == (now.status, now.owner)
            assert executing.cancelled()

    run(scenario())


def test_writers_of_several_loops_pass_one_at_a_time() -> None:
    """
    Threads with loops of their own queue in one turnstile; who is cancelled in the queue leaves it whole.
    """
    turnstile = Turnstile()
    inside: list[int] = []
    most: list[int] = []

    async def pass_through() -> None:
        for _ in range(50):
            async with turnstile:
                inside.append(1)
                most.append(len(inside))
                try:
                    await asyncio.sleep(0)
                finally:
                    inside.pop()

    async def crowd() -> None:
        waiting = asyncio.get_running_loop().create_task(pass_through())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, pass_through(), pass_through(), return_exceptions=True)

    threads = [threading.Thread(target=lambda: asyncio.run(crowd())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()

    assert {1} == set(most)
    assert len(most) >= 4 * 2 * 50


@pytest.mark.parametrize("engine", ["asyncio", "inline"])
def test_many_tasks_are_each_done_once(tmp_path: Path, engine: str) -> None:
    """
    Two hundred rows at once, claimed and ended together: each ran once, and none is left.
    """
    done: list[str] = []

    async def note(context: object, params: object) -> None:
        done.append(context.task_id)  # type: ignore[attr-defined]

    async def scenario() -> None:
        async with services(tmp_path, engine=engine) as made:
            teach(made, note)
            ids = [await add(made, "test", {"a": 1}, engine=engine) for _ in range(200)]
            await asyncio.gather(*(made.runner.execute(each) for each in (*ids, *ids)))
            async with made.database.read() as connection:
                ended = select(func.count()).where(Task.status == "SUCCESS", Task.attempts == 1)
                assert 200 == (await connection.execute(ended)).scalar()
            assert sorted(ids) == sorted(done)
            assert {} == made.runner.running

    run(scenario())


def test_who_gives_up_before_the_lock_has_nothing_written(tmp_path: Path) -> None:
    """
    What is cancelled while another process has the write lock isn't done later, when nobody owns it any more.

    Seen to fail with the futures marked as running before the lock is there.
    """
    done = [0]

    async def count(connection: object) -> None:
        done[0] += 1

    async def scenario() -> None:
        async with services(tmp_path) as made:
            other = sqlite3.connect(made.database.engine.url.database or "")
            other.execute("BEGIN IMMEDIATE")
            begun = threading.Event()
            begin = made.database.writers.begin

            def begins(connection: Connection) -> None:
                begun.set()
                begin(connection)

            made.database.writers.begin = begins  # type: ignore[method-assign]
            adding = asyncio.ensure_future(made.database.work(count))
            await asyncio.to_thread(begun.wait)
            adding.cancel()
            await asyncio.wait([adding])
            other.rollback()
            other.close()

            # One that comes behind it is done, and it alone.
            await made.database.work(count)

            assert adding.cancelled()
            assert 1 == done[0]

    run(scenario())
