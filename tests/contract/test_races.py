"""
What happens at once: both applications on one database, and clients that do the same thing in the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from legacy_twisted.database import Database as LegacyDatabase
from modern_fastapi.database import Database as ModernDatabase
from modern_fastapi.migrate import migrate
from tests.contract.postgres import temporary_database
from tests.contract.servers import TARGETS, Server, start
from tests.contract.stores import Database
from tests.contract.wire import ask

JSON = ["Content-Type: application/json"]
T = TypeVar("T")


@pytest.fixture(
    scope="module",
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.servers("postgresql")])],
)
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Server], Database]]:
    """
    Legacy and modern, each alone, on one data folder and one database.
    """
    folder: Path = tmp_path_factory.mktemp("together")
    servers: list[Server] = []
    with temporary_database(request.param, folder) as url:
        settings = {"JOBS_DATA": str(folder / "data")}
        if request.param == "postgresql":
            settings["JOBS_DATABASE"] = url
        try:
            for target in TARGETS[:2]:
                (folder / target.name).mkdir()
                servers.append(start(target, folder / target.name, settings))
            for server in servers:
                server.listening()
            database = Database(url)
            yield servers, database
            database.close()
        finally:
            for server in servers:
                server.kill()


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """
    The answers of calls that are all made in the same moment.
    """
    gate = threading.Barrier(len(calls))
    answers: list[T] = []

    def run(call: Callable[[], T]) -> None:
        gate.wait()
        answers.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def make_modern(url: str) -> int:
    async def scenario() -> int:
        database = ModernDatabase(url)
        try:
            return await migrate(database)
        finally:
            await database.close()

    return asyncio.run(scenario())


def make_legacy(url: str) -> int:
    LegacyDatabase(url, None).migrate()
    return 0


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.servers("postgresql"))])
def test_both_make_the_schema(store: str, tmp_path: Path) -> None:
    """
    The stacks that find an empty database at the same moment make its tables once, and both go on.

    Seen to fail on PostgreSQL with an advisory lock of its own for each stack, in the first round.
    """

    for number in range(5):
        folder = tmp_path / str(number)
        (folder / "data").mkdir(parents=True)
        with temporary_database(store, folder) as url:
            assert 2 == len(at_once([lambda: make_modern(url), lambda: make_legacy(url)]))


@pytest.mark.parametrize("make", [make_legacy, make_modern])
def test_a_new_file_may_be_written_by_another(make: Callable[[str], int], tmp_path: Path) -> None:
    """
    Who finds a file of SQLite's that another process is just turning into a database waits for it.

    Seen to fail, in one of twenty starts of two servers at once: "database is locked", without any wait, for turning a
    file to writing ahead.
    """
    file = tmp_path / "jobs.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE theirs (a INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        ending.start()
        try:
            make(f"sqlite:///{file}")
        finally:
            ending.join()


def test_one_address_is_registered_once(together: tuple[list[Server], Database]) -> None:
    """
    Twenty clients on two stacks want the same address: one gets it, the others a conflict, and nobody an error.
    """
    servers, database = together
    spellings = [b"race@example.org", b"Race@Example.org"]
    calls = [
        lambda server=servers[number % 2], email=spellings[number // 2 % 2]: ask(
            server.address, "POST", "/register", headers=JSON, body=b'{"email":"%s","name":"R"}' % email
        )
        for number in range(20)
    ]

    answers = at_once(calls)

    assert [201] + [409] * 19 == sorted(answer.status for answer in answers)
    rows = database.query("SELECT user_id FROM users WHERE email_key = 'race@example.org'")
    [winner] = [json.loads(answer.body) for answer in answers if answer.status == 201]
    assert [winner["user_id"]] == [row["user_id"] for row in rows]
    for task in winner["task_ids"]:
        assert "SUCCESS" == database.settle(task)
    [directory] = database.query("SELECT * FROM directory WHERE user_id = ?", winner["user_id"])
    assert winner["email"] == directory["email"]


def test_a_task_is_cancelled_once(together: tuple[list[Server], Database]) -> None:
    """
    Of many who cancel the same waiting task one does it; the others hear that it has ended.
    """
    servers, database = together
    task = "80000000-0000-4000-8000-000000000001"
    database.insert({"table": "tasks", "id": task, "name": "log.write", "params": '{"message":"x"}'})
    calls = [lambda server=servers[number % 2]: ask(server.address, "DELETE", f"/task/{task}") for number in range(10)]

    answers = at_once(calls)

    assert [202] + [409] * 9 == sorted(answer.status for answer in answers)
    assert ("PENDING", "CANCELLED") == database.history(task)


def test_many_posts_at_once_are_all_kept(together: tuple[list[Server], Database]) -> None:
    """
    Sixty writers on one database, two processes: every 202 is a row, every row ends, and no client waits for a lock.
    """
    servers, database = together
    calls = [
        lambda server=servers[number % 2]: ask(server.address, "POST", "/log?message=crowd") for number in range(60)
    ]

    answers = at_once(calls)

    assert [202] * 60 == [answer.status for answer in answers]
    tasks = {json.loads(answer.body)["task_id"] for answer in answers}
    assert 60 == len(tasks)
    for task in tasks:
        assert "SUCCESS" == database.settle(task)
        assert ("PENDING", "RUNNING", "SUCCESS") == database.history(task)
