"""
kill -9 at any moment over a server and its Celery workers, and a broker that is emptied in the middle: nothing accepted
is lost, nothing that has ended runs again, and what a dead process held is taken up within seconds.

BGSERVER_LONG=1 kills a thousand times on each broker; BGSERVER_KILLS is another count for it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.contract.servers import ROOT, Server, environment, script
from tests.contract.stores import Database
from tests.faults.load import Load, prove, settle_all
from tests.faults.test_kill import SEED

Serve = Callable[..., Server]
Connect = Callable[[], Database]

LONG = os.environ.get("BGSERVER_LONG") == "1"
KILLS = int(os.environ.get("BGSERVER_KILLS", "1000")) if LONG else 8
# Processes that may hold tasks: the server's publisher holds none, each worker has two of its own.
IN_FLIGHT = 4


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[], object]]]:
    """
    An empty broker's URL, and what empties it.
    """
    if request.param == "redis":
        client = pytest.importorskip("redis").Redis(port=6379, db=13)
        client.flushdb()
        yield "redis://127.0.0.1:6379/13", client.flushdb
        client.flushdb()
        client.close()
        return
    url = "amqp://guest:guest@127.0.0.1:5672/"
    with pytest.importorskip("kombu").Connection(url) as connection:
        queue = connection.SimpleQueue("jobs")
        queue.clear()
        yield url, queue.clear
        queue.clear()
        queue.close()


@pytest.mark.slow
@pytest.mark.servers("redis", "rabbitmq")
@pytest.mark.timeout(7200 if LONG else 240)
def test_kills_of_workers_lose_nothing(
    serve: Serve, database: Connect, tmp_path: Path, broker: tuple[str, Callable[[], object]]
) -> None:
    """
    A server and two workers of two processes each. Seen to fail without the rescue: what a dead process held is
    RUNNING for ever.
    """
    url, empty = broker
    dice = random.Random(SEED)
    settings = {"JOBS_ENGINE": "celery", "JOBS_BROKER": url}
    running = {"server": serve("modern", **settings)} | {name: _worker(tmp_path, settings) for name in ("one", "two")}
    stored = database()
    try:
        with Load(lambda: [running["server"].address], dice, pause=0.005) as load:
            for kill in range(KILLS):
                load.wait_for(dice.randrange(1, 60))
                name = dice.choice(list(running))
                running[name].kill()
                running[name] = serve("modern", **settings) if name == "server" else _worker(tmp_path, settings)
                if kill == KILLS // 2:
                    empty()
            load.wait_for(10)
        settle_all(stored, 180.0)
    finally:
        for each in running.values():
            each.kill()

    proof = prove(stored, tmp_path / "data", load.accepted)
    waits = sorted(_takeovers(stored))
    print(proof, f"taken up again: {len(waits)}, p99 {waits[int(len(waits) * 0.99)]:.1f} s" if waits else "")
    assert proof["repeated"] <= KILLS * IN_FLIGHT


def _worker(folder: Path, settings: dict[str, str]) -> Server:
    env = environment(JOBS_DATA=str(folder / "data"), **settings)
    command = [*script("celery"), "-A", "modern_fastapi.engines.celery_worker", "worker", "-c", "2", "-l", "WARNING"]
    return Server.start([*command, "-n", f"w{random.getrandbits(48):x}@here"], ROOT, env, folder / "workers.log")


def _takeovers(database: Database) -> Iterator[float]:
    """
    Of each task that a process died with: seconds from the start that was cut off to the next one, at most.
    """
    last: dict[str, tuple[str, str]] = {}
    for row in database.query("SELECT task_id, status, at FROM events ORDER BY seq"):
        before = last.get(row["task_id"])
        if row["status"] == "PENDING" and before is not None:
            continue  # how the rescue says that it is free again
        if before is not None and before[0] == row["status"] == "RUNNING":
            yield (datetime.fromisoformat(row["at"]) - datetime.fromisoformat(before[1])).total_seconds()
        last[row["task_id"]] = row["status"], row["at"]
