"""
kill -9 at any moment, of the server that publishes and of the Celery workers that run, and a broker that is emptied in
the middle: nothing accepted is lost, nothing finished runs again.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.rabbit import temporary_vhost
from tests.contract.servers import Server, environment, script
from tests.contract.stores import Database
from tests.faults.load import Load, prove, settle_all

Serve = Callable[..., Server]
Connect = Callable[[], Database]

pytestmark = [pytest.mark.slow, pytest.mark.servers("redis", "rabbitmq")]

SEED = int(os.environ.get("BGSERVER_SEED", "20261121"))
KILLS = int(os.environ.get("BGSERVER_KILLS", "1000"))
WORKER = ["-A", "modern_fastapi.engines.celery_worker", "worker", "-c", "4", "-l", "WARNING"]


@attrs.frozen
class Broker:
    """
    A broker that nobody else uses, and what empties it.
    """

    url: str
    empty: Callable[[], object]


@contextmanager
def redis(folder: Path) -> Iterator[Broker]:
    """
    A Redis of our own; emptied by FLUSHALL.
    """
    program = shutil.which("redis-server") or pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "redis.log"
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Server.start(command, folder, environment(), log)
    while "Ready to accept connections" not in server.said():
        assert server.process.poll() is None, server.said()
        time.sleep(0.02)
    client: Any = pytest.importorskip("redis").Redis(port=port)
    try:
        yield Broker(f"redis://127.0.0.1:{port}/0", client.flushall)
    finally:
        client.close()
        server.kill()


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Broker]:
    """
    A virtual host of our own; emptied by a purge.
    """
    kombu: Any = pytest.importorskip("kombu")
    with temporary_vhost() as url:

        def purge() -> None:
            with kombu.Connection(url) as connection, connection.channel() as channel:
                queue = kombu.Queue("jobs", kombu.Exchange("jobs", type="direct"), routing_key="jobs", channel=channel)
                queue.declare()
                queue.purge()

        yield Broker(url, purge)


@pytest.fixture(params=[redis, rabbitmq], ids=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """
    Each of the two.
    """
    with request.param(tmp_path) as made:
        yield made


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
    serve: Serve, work: Callable[[str], Server], database: Connect, data: Path, broker: Broker, kills: int
) -> dict[str, float]:
    """
    One server and two workers under load; a random one is killed after a random while, and replaced. The broker is
    emptied once, halfway.
    """
    dice = random.Random(SEED)
    settings = {"JOBS_ENGINE": "celery", "JOBS_BROKER": broker.url, "JOBS_LOOPS": "consumer,rescue"}
    servers = [serve("modern", **settings)]
    workers = [work(broker.url), work(broker.url)]
    stored = database()
    with Load(lambda: [server.address for server in servers], dice) as load:
        for number in range(kills):
            load.wait_for(dice.randrange(1, 40))
            if number == kills // 2:
                broker.empty()
            if dice.random() < 0.5:
                victim = servers.pop()
                victim.kill()
                servers.append(serve("modern", **settings))
            else:
                workers.pop(dice.randrange(len(workers))).kill()
                workers.append(work(broker.url))
        load.wait_for(10)
    # What was emptied away is published again after the relay's patience.
    settle_all(stored, timeout=180.0)
    return prove(stored, data, load.accepted)


@pytest.mark.timeout(300)
def test_kills_around_a_broker_lose_nothing(
    serve: Serve, work: Callable[[str], Server], database: Connect, tmp_path: Path, broker: Broker
) -> None:
    """
    Six kills here, a thousand in the long form.
    """
    kill_publisher_and_workers(serve, work, database, tmp_path / "data", broker, 6)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_kills_around_a_broker_lose_nothing(
    serve: Serve, work: Callable[[str], Server], database: Connect, tmp_path: Path, broker: Broker
) -> None:
    """
    The promise in full; a start is repeated only for what was in flight at a kill. BGSERVER_KILLS is another count.
    """
    proof = kill_publisher_and_workers(serve, work, database, tmp_path / "data", broker, KILLS)

    assert proof["repeated"] <= KILLS * 14
    assert proof["put back within"] < 10.0
    print(proof)
