"""
Celery, RQ and Dramatiq as processes, with the very commands that docs/example.md tells an operator.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.postgres import temporary_database
from tests.contract.rabbit import temporary_vhost
from tests.contract.servers import ROOT, TARGETS, environment, script, start
from tests.contract.stores import TERMINAL, Database
from tests.sources.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.servers("postgresql", "redis", "rabbitmq")]

REDIS = "redis://127.0.0.1:6379/11"


def documented(program: str, kind: str = "") -> list[str]:
    """
    A command of docs/example.md, by its program and, of Celery's, its kind.
    """
    page = (ROOT / "docs" / "example.md").read_text("utf-8")
    lines = [line.partition("#")[0].split() for line in page.splitlines() if line.startswith(program + " ")]
    [words] = [words for words in lines if not kind or kind in words]
    return words


@attrs.define
class Shop:
    """
    A server that hands its tasks to workers, and the workers.
    """

    stack: Stack
    folder: Path
    env: dict[str, str]
    running: list[tuple[subprocess.Popen[bytes], Path]] = attrs.field(factory=list)

    def work(self, *words: str, **more: str) -> Path:
        """
        Start a worker in a folder of its own; its log.
        """
        folder = self.folder / f"worker-{len(self.running)}"
        folder.mkdir()
        log = folder / "log"
        command = [*script(words[0]), *(REDIS if word.startswith("redis://") else word for word in words[1:])]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=folder, env={**self.env, **more}, stdout=output, stderr=output, start_new_session=True
            )
        self.running.append((process, log))
        return log

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            logs = "\n".join(log.read_text("utf-8", "replace")[-1500:] for _, log in self.running)
            assert time.monotonic() < deadline, f"{what}\n{logs}\n{self.stack.server.last_words()}"
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """
        SIGTERM to each worker; they end, and leave no child.
        """
        for process, _ in self.running:
            process.send_signal(signal.SIGTERM)
        for process, log in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{process.args} ignores SIGTERM:\n{log.read_text()[-1500:]}") from None
            self.until(lambda group=process.pid: not alive(group), f"{process.args} left children", 15.0)

    def close(self) -> None:
        for process, _ in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.stack.close()


def alive(group: int) -> list[str]:
    """
    The processes of a group that still run; who is dead and not yet buried doesn't.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[[str, str, str], Shop]]:
    """
    Opens a shop with this engine, kind of broker and store.
    """
    redis = pytest.importorskip("redis").Redis(port=6379, db=11)
    redis.flushdb()
    opened: list[Shop] = []
    with temporary_database("postgresql", tmp_path) as postgresql, ExitStack() as hosts:

        def run(engine: str, kind: str, store: str) -> Shop:
            broker = REDIS if kind == "redis" else hosts.enter_context(temporary_vhost())
            folder = tmp_path / "server"
            folder.mkdir()
            url = postgresql if store == "postgresql" else f"sqlite:///{folder / 'data' / 'jobs.db'}"
            settings = {
                "JOBS_ENGINE": engine,
                "JOBS_BROKER": broker,
                "JOBS_DATABASE": url,
                "JOBS_DATA": str(folder / "data"),
                "JOBS_LOOPS": "rescue",
            }
            [modern] = [each for each in TARGETS if each.name == "modern"]
            server = start(modern, folder, settings).listening()
            stack = Stack("modern", server, folder / "data", Database(url))
            opened.append(Shop(stack, tmp_path, environment(**settings)))
            return opened[-1]

        yield run
        for each in opened:
            each.close()
    redis.flushdb()
    redis.close()


def do_some_work(shop: Shop) -> None:
    """
    One that succeeds, one that is tried again, one for the processor: each runs in a worker, not in the server.
    """
    post = shop.stack.post
    tasks = [
        post("/log?message=a")["task_id"],
        post("/unstable", {"failures": 1})["task_id"],
        post("/compute", {"n": 1000})["task_id"],
    ]
    stored = shop.stack.stored
    shop.until(lambda: all(stored.status(task) in TERMINAL for task in tasks), "not all tasks have ended")
    rows = [shop.stack.ended(task) for task in tasks]
    assert [("SUCCESS", None)] * 3 == [(row["status"], row["error"]) for row in rows]
    mine = stored.query("SELECT boot_id FROM processes WHERE pid = ?", shop.stack.server.process.pid)
    assert not {row["owner"] for row in rows} & {row["boot_id"] for row in mine}


@pytest.mark.parametrize(
    ("broker", "store"), [("redis", "sqlite"), ("rabbitmq", "postgresql")], ids=["redis", "rabbitmq"]
)
def test_celery_with_two_beats_and_flower(shop: Callable[..., Shop], broker: str, store: str) -> None:
    """
    The worker does what the server accepted, two Beats bring one tick, and Flower shows worker and tasks.

    Seen to fail with a process pool in Celery's prefork children, which may have no children: no computation ended.
    """
    one = shop("celery", broker, store)
    log = one.work(*documented("celery", "worker"), "-l", "INFO")
    for _ in range(2):
        one.work(*documented("celery", "beat"))
    port = free_port()
    flower = {"FLOWER_PORT": str(port), "FLOWER_ADDRESS": "127.0.0.1", "FLOWER_UNAUTHENTICATED_API": "true"}
    one.work(*documented("celery", "flower"), **flower)

    def asked(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    one.until(lambda: " ready." in log.read_text(), "no worker")
    one.until(lambda: asked("/api/workers?refresh=True"), "Flower shows no worker")
    do_some_work(one)

    shown = one.until(lambda: asked("/api/tasks"), "Flower shows no task")
    assert "jobs.execute" in {task["name"] for task in shown.values()}

    def ticked() -> list[dict[str, Any]]:
        return one.stack.stored.query("SELECT key, owner FROM ticks WHERE loop = 'cache_refresh'")

    one.until(ticked, "Beat brought no tick")
    sent = one.until(
        lambda: len(times := re.findall(r"Task jobs\.tick\[.*received", log.read_text())) >= 2 and times,
        "the second Beat brought nothing",
    )
    # Each Beat sends each loop's tick; a key has one row, so that what the second one sent found it done.
    [loop] = one.stack.stored.query("SELECT ticks, last_error FROM loops WHERE name = 'cache_refresh'")
    assert len(sent) >= 2
    assert (len(ticked()), None) == (loop["ticks"], loop["last_error"])
    one.end()


def test_an_rq_worker(shop: Callable[..., Shop]) -> None:
    """
    RQ's own command runs the rows; `rq info` shows the worker; and RQ ends no job after its usual three minutes.

    Seen to fail with a worker that skips each sign of life, and with a job that is sent without a limit.
    """
    rq: Any = pytest.importorskip("rq")
    one = shop("rq", "redis", "postgresql")
    one.work(*documented("rq"))

    do_some_work(one)

    redis: Any = pytest.importorskip("redis").Redis.from_url(REDIS)
    [worker] = one.until(lambda: rq.Worker.all(connection=redis), "Redis knows no worker")
    one.until(lambda: worker.refresh() or worker.get_state() == "idle", "the worker doesn't say that it is idle")
    assert redis.ttl(worker.key) > worker.worker_ttl
    assert worker.last_heartbeat > worker.birth_date
    finished = rq.Queue("jobs", connection=redis).finished_job_registry.get_job_ids()
    assert {3600} == {job.timeout for job in rq.job.Job.fetch_many(finished, connection=redis)}
    redis.close()
    one.end()


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_dramatiq_worker(shop: Callable[..., Shop], broker: str) -> None:
    """
    Dramatiq's own command, on either broker. It ends when it is told to, with what it has started.

    Seen to fail without `CloseWorkers`: a process whose task had used the pool of processes never ended.
    """
    one = shop("dramatiq", broker, "postgresql")
    one.work(*documented("dramatiq"))

    do_some_work(one)
    one.end()


def test_two_celery_hosts_share_the_work(shop: Callable[..., Shop]) -> None:
    """
    Past one machine: two workers of one broker and one PostgreSQL both do their part, and no row is started twice.
    """
    one = shop("celery", "rabbitmq", "postgresql")
    logs = [one.work(*documented("celery", "worker"), "-l", "INFO", "-n", f"host{number}@%h") for number in range(2)]
    for log in logs:
        one.until(lambda log=log: " ready." in log.read_text(), "no worker")

    tasks = [one.stack.post("/compute", {"n": 300_000})["task_id"] for _ in range(24)]
    rows = [one.stack.ended(task) for task in tasks]

    assert {("SUCCESS", 1)} == {(row["status"], row["attempts"]) for row in rows}
    assert len({row["owner"] for row in rows}) >= 2
    one.end()
