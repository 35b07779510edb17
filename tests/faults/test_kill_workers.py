"""
kill -9 at any moment, of the server that publishes and of the Celery workers that run, and a broker that is emptied in
the middle: nothing accepted is lost, nothing finished runs again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.servers import Server, environment, script
from tests.contract.stores import Database
from tests.faults.load import Load, prove, settle_all

Serve = Callable[..., Server]
Connect = Callable[[], Database]

pytestmark = [pytest.mark.slow, pytest.mark.servers("redis", "rabbitmq")]

SEED = int(os.environ.get("BGSERVER_SEED", "20261121"))
KILLS = int(os.environ.get("BGSERVER_KILLS", "1000"))
REDIS = "redis://127.0.0.1:6379/13"
RABBIT = "amqp://guest:guest@127.0.0.1:5672/"
WORKER = ["-A", "modern_fastapi.engines.celery_worker", "worker", "-c", "4", "-l", "WARNING"]


def empty(broker: str) -> None:
    """
    What FLUSHALL does, for what is ours alone.
    """
    if broker == REDIS:
        redis: Any = pytest.importorskip("redis").Redis(port=6379, db=13)
        redis.flushdb()
        redis.close()
        return
    kombu: Any = pytest.importorskip("kombu")
    with kombu.Connection(RABBIT) as connection:
        queue = kombu.Queue("jobs", kombu.Exchange("jobs", type="direct"), routing_key="jobs", channel=connection)
        queue.declare()
        queue.purge()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """
    Starts Celery workers, each in a folder of its own, and kills what is left of them.
    """
    running: list[Server] = []

    def run(broker: str) -> Server:
        folder = tmp_path / f"worker-{len(running)}"
        folder.mkdir()
        env = environment(JOBS_DATA=str(tmp_path / "data"), JOBS_ENGINE="celery", JOBS_BROKER=broker)
        running.append(Server.start([*script("celery"), *WORKER], folder, env, folder / "log"))
        return running[-1]

    yield run
    for worker in running:
        worker.kill()


def kill_publisher_and_workers(
    serve: Serve, work: Callable[[str], Server], database: Connect, data: Path, broker: str, kills: int
) -> dict[str, int]:
    """
    One server and two workers under load; a random one is killed after a random while, and replaced. The broker is
    emptied once, halfway.
    """
    dice = random.Random(SEED)
    settings = {"JOBS_ENGINE": "celery", "JOBS_BROKER": broker, "JOBS_LOOPS": "consumer,rescue"}
    empty(broker)
    servers = [serve("modern", **settings)]
    workers = [work(broker), work(broker)]
    stored = database()
    with Load(lambda: [server.address for server in servers], dice) as load:
        for number in range(kills):
            load.wait_for(dice.randrange(1, 40))
            if number == kills // 2:
                empty(broker)
            if dice.random() < 0.5:
                victim = servers.pop()
                victim.kill()
                servers.append(serve("modern", **settings))
            else:
                workers.pop(dice.randrange(len(workers))).kill()
                workers.append(work(broker))
        load.wait_for(10)
    # What was emptied away is published again after the relay's patience.
    settle_all(stored, timeout=180.0)
    empty(broker)
    return prove(stored, data, load.accepted)


BROKERS = pytest.mark.parametrize("broker", [REDIS, RABBIT], ids=["redis", "rabbitmq"])


@BROKERS
@pytest.mark.timeout(300)
def test_kills_around_a_broker_lose_nothing(
    serve: Serve, work: Callable[[str], Server], database: Connect, tmp_path: Path, broker: str
) -> None:
    """
    Six kills here, a thousand in the long form.
    """
    kill_publisher_and_workers(serve, work, database, tmp_path / "data", broker, 6)


@BROKERS
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_kills_around_a_broker_lose_nothing(
    serve: Serve, work: Callable[[str], Server], database: Connect, tmp_path: Path, broker: str
) -> None:
    """
    The promise in full; a start is repeated only for what was in flight at a kill. BGSERVER_KILLS is another count.
    """
    proof = kill_publisher_and_workers(serve, work, database, tmp_path / "data", broker, KILLS)

    assert proof["repeated"] <= KILLS * 14
    print(proof)
