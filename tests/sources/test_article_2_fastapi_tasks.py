"""
Background work in FastAPI: tasks of the loop, retries, rows in a database, processes for the processor; and what was
lost: work that nobody holds, or whose process dies.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import weakref
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import uvloop

from modern_fastapi.settings import Settings
from tests.contract.servers import ROOT
from tests.modern.application import add, run, running
from tests.modern.test_runner import teach
from tests.sources.conftest import Stack

pytestmark = pytest.mark.slow



def test_a_task_of_the_loop_is_held_by_its_owner(tmp_path: Path) -> None:
    """
    The fault: asyncio holds tasks weakly, and one that only waits for what it made itself is collected mid-await. Here
    the engine holds it, and it ends.

    Seen to fail with the engine's set of tasks left out.
    """
    waits: list[weakref.ref[asyncio.Future[str]]] = []
    reached = asyncio.Event()

    async def alone(context: Any, params: Any) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waits.append(weakref.ref(future))
        reached.set()
        return await future

    async def scenario() -> None:
        async with running(tmp_path, engine="asyncio", poll=0.1, loops="") as one:
            teach(one.services, alone)
            task_id = await add(one.services, "test", {"a": 1}, engine="asyncio")
            await one.services.engine.start([task_id])
            await asyncio.wait_for(reached.wait(), 20)
            gc.collect()
            future = waits[0]()
            assert future is not None
            future.set_result("held")
            assert ["SUCCESS"] == await one.ended(task_id)

    run(scenario())


def test_many_tasks_of_one_request_are_gathered(tmp_path: Path) -> None:
    """
    What `gather` is for: the tasks of one request run at the same time, and each has its own end.
    """
    met = asyncio.Barrier(3)

    async def meets(context: Any, params: Any) -> None:
        await met.wait()

    async def scenario() -> None:
        async with running(tmp_path, engine="asyncio", poll=0.1, loops="") as one:
            teach(one.services, meets)
            ids = [await add(one.services, "test", {"a": 1}, engine="asyncio") for _ in range(3)]
            await one.services.engine.start(ids)
            assert ["SUCCESS"] * 3 == await one.ended(*ids)

    run(scenario())


@pytest.mark.parametrize(("failures", "status", "attempts"), [(2, "SUCCESS", 3), (3, "FAILURE", 3)])
def test_a_task_is_tried_three_times(stack: Stack, failures: int, status: str, attempts: int) -> None:
    """
    Retries after a growing pause; after the third attempt it has failed for good, and says why.
    """
    row = stack.ended(stack.post("/unstable", {"failures": failures})["task_id"])

    assert (status, attempts) == (row["status"], row["attempts"])
    assert (row["error"] is not None) is (status == "FAILURE")


def test_a_task_is_a_row_with_its_state_and_times(stack: Stack) -> None:
    """
    What was accepted is asked for by its id: state, result and times are those of the database.
    """
    task = stack.post("/process", {"a": 1})["task_id"]
    row = stack.ended(task)

    shown = json.loads(stack.ask("GET", f"/task/{task}").body)

    times = [datetime.fromisoformat(shown[name]) for name in ("created_at", "started_at", "finished_at")]
    assert sorted(times) == times
    for name in ("id", "name", "status", "attempts", "created_at", "started_at", "finished_at"):
        assert row[name] == shown[name]
    assert {"keys", "sha256"} == set(shown["result"])


def test_work_for_the_processor_holds_nobody_up(stack: Stack) -> None:
    """
    A computation runs in a process of its own: requests are answered, and other tasks end, while it goes on.
    """
    long = stack.post("/compute", {"n": 10_000_000})["task_id"]
    while stack.stored.status(long) == "PENDING":
        assert stack.server.process.poll() is None

    hello = stack.ask("GET", "/").status
    short = stack.ended(stack.post("/log?message=meanwhile")["task_id"])["status"]

    assert (200, "SUCCESS", "RUNNING") == (hello, short, stack.stored.status(long))
    assert 202 == stack.ask("DELETE", f"/task/{long}").status


@pytest.mark.parametrize("n", [-1, 10_000_001, "100", 1.5, True, None])
def test_parameters_are_validated_before_there_is_a_task(stack: Stack, n: object) -> None:
    """
    A parameter that can't be used is told by its name, and makes no row.
    """
    before = stack.stored.query("SELECT count(*) AS n FROM tasks WHERE name = 'compute.primes'")

    answer = stack.ask("POST", "/compute", {"n": n})

    assert (400, "bad_field") == (answer.status, json.loads(answer.body)["error"])
    assert "n" in re.findall(r"\w+", json.loads(answer.body)["message"])
    assert before == stack.stored.query("SELECT count(*) AS n FROM tasks WHERE name = 'compute.primes'")


def test_the_application_runs_on_uvloop(tmp_path: Path) -> None:
    """
    The faster loop changes nothing: tasks of both kinds end.
    """

    async def scenario() -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        async with running(tmp_path, poll=0.1) as one:
            ids = [
                (await one.client.post(path)).json()["task_id"]
                for path in ("/log?message=a", "/send-notification/a@example.org?message=b")
            ]
            assert ["SUCCESS", "SUCCESS"] == await one.ended(*ids)

    uvloop.run(scenario())


@pytest.mark.parametrize("engine", ["table", "inline", "asyncio", "thread"])
def test_what_was_accepted_survives_the_process(serve: Callable[..., Stack], engine: str) -> None:
    """
    The fault: a task in memory is lost with its process. Here it is a row, whoever was to run it: kill -9 right after
    the answer, and the next process finishes it.
    """
    first = serve("modern", JOBS_ENGINE=engine, JOBS_LEASE="1")
    task = first.post("/compute", {"n": 3_000_000})["task_id"]
    first.server.kill()

    row = serve("modern", JOBS_ENGINE=engine, JOBS_LEASE="1").ended(task)

    assert ("SUCCESS", {"count": 216816}) == (row["status"], json.loads(row["result"]))


def test_when_to_choose_which_engine_is_said() -> None:
    """
    The articles end with advice on when to choose Celery; ours is a table with every engine that the settings know.
    """
    engines = get_args(Settings.model_fields["engine"].annotation)
    table = (ROOT / "docs" / "example.md").read_text("utf-8").partition("| engine |")[2].partition("\n\n")[0]

    assert {"table", "celery"} <= set(engines)
    assert [] == [name for name in engines if f"`{name}`" not in table]
