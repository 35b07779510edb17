"""
Measures background work on every engine: the articles' exercise of 100 tasks of 0.1 s, tasks that do nothing, how long
a request that asks for work takes with its broker up, frozen and down, how soon a task is picked up, and what an idle
server costs.

Run it: python -m tests.benchmarks.background_tasks [--only naps,nothing,enqueue,pickup,idle] [--engines table,celery]
``--only enqueue-postgresql`` asks a server on PostgreSQL, at BGSERVER_POSTGRESQL.

Promises: 100 tasks within 1.15 of the ideal with 10 workers; 500 tasks a second on the table; enqueueing below 5 ms for
99 of 100, whatever the broker does; half of all tasks picked up within 20 ms; below 1 % of a processor when idle; and
the loop late by less than 10 ms, 99 times of 100, all the while. Redis is one of its own, on a port of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from modern_fastapi.schema import Task
from modern_fastapi.tasks.rows import NewTask
from tests.benchmarks.napping import sender  # which also teaches the two tasks
from tests.benchmarks.task_servers import Redis, bare, post, server
from tests.contract.postgres import temporary_database
from tests.contract.servers import ROOT, environment
from tests.modern.application import Running, running

WORKERS = 10
NAPS = 100
LOCAL = ("table", "inline", "asyncio", "thread")
BROKERS = ("celery", "rq", "dramatiq")
LOOPS = ("consumer", "rescue", "daily_report", "cache_refresh", "cleanup")
COMMANDS = {
    "celery": [["-m", "celery", "-A", "tests.benchmarks.napping", "worker", "-P", "threads", "-c", str(WORKERS)]],
    "dramatiq": [["-m", "dramatiq", "tests.benchmarks.napping", "-p", "1", "-t", str(WORKERS)]],
    "rq": [["-m", "rq.cli", "worker", "jobs", "-w", "tests.benchmarks.napping.LeanWorker"]] * WORKERS,
}


def say(what: str, figure: str, promise: str = "") -> None:
    print(f"{what:<58}{figure:>22}  {promise}", flush=True)


def p(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def workers(engine: str, folder: Path, settings: dict[str, str]) -> Iterator[None]:
    """
    The engine's worker processes, with ten workers among them.
    """
    processes = []
    for number, command in enumerate(COMMANDS.get(engine, [])):
        more = ["--url", settings["JOBS_BROKER"]] if engine == "rq" else []
        with (folder / f"worker-{number}.log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, *more],
                    cwd=folder,
                    env=environment(**settings),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Lag:
    """
    How late the loop is, looked at every 5 ms.
    """

    def __init__(self) -> None:
        self.late: list[float] = []

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            self.late.append(loop.time() - due)


@asynccontextmanager
async def serving(engine: str, folder: Path, redis: Redis) -> AsyncIterator[tuple[Running, Lag]]:
    """
    The application with an engine and ten workers, warm, and its loop watched.
    """
    settings = {"engine": engine, "broker": redis.url, "workers": WORKERS, "loops": "consumer,rescue"}
    env = {f"JOBS_{name.upper()}": str(value) for name, value in settings.items()} | {"JOBS_DATA": str(folder)}
    lag = Lag()
    async with running(folder, **settings) as one:
        with workers(engine, folder, env):
            await run_all(one, engine, "bench.nothing", 3 * WORKERS)
            watching = asyncio.get_running_loop().create_task(lag.watch())
            try:
                yield one, lag
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def run_all(one: Running, engine: str, name: str, count: int) -> float:
    """
    Submit that many tasks at once, and wait for the last one; the seconds that it took.
    """
    services = one.services
    began = time.time()

    async def submit(connection: AsyncConnection) -> list[str]:
        return [await services.rows.add(connection, NewTask(name, {}), engine) for _ in range(count)]

    ids = await services.database.work(submit)
    began = began if name == "bench.nothing" else time.time()
    if engine == "inline":  # ten requests at a time, each running its own after its answer
        for_each = [services.engine.start(ids[number::WORKERS]) for number in range(WORKERS)]
        await asyncio.gather(*for_each)
    else:
        await services.engine.start(ids)
    # Cheap to ask, for the loop is watched: no other tasks are there.
    unfinished = select(1).where(Task.status.in_(("PENDING", "RUNNING", "RETRY"))).limit(1)
    for _ in range(2400):
        async with services.database.read() as connection:
            if not (await connection.execute(unfinished)).scalar():
                break
        await asyncio.sleep(0.05)
    else:
        raise SystemExit(f"{engine}: {count} tasks did not end within two minutes")
    async with services.database.read() as connection:
        last = (await connection.execute(select(func.max(Task.finished_at)))).scalar()
    return datetime.fromisoformat(str(last)).timestamp() - began


async def run_alone(one: Running, engine: str, folder: Path) -> float:
    """
    The same exercise on the engine's own, with no row of ours; the seconds that it took.
    """
    ends = folder / f"ends-{time.monotonic_ns()}"
    send = sender(engine, one.services.settings)
    began = time.time()

    def all_of_them() -> None:
        for _ in range(NAPS):
            send(str(ends))

    await asyncio.to_thread(all_of_them)
    for _ in range(2400):
        lines = ends.read_text().splitlines() if ends.exists() else []
        if len(lines) == NAPS:
            return max(map(float, lines)) - began
        await asyncio.sleep(0.05)
    raise SystemExit(f"{engine} alone: {NAPS} tasks did not end within two minutes")


def naps(engines: list[str], folder: Path, redis: Redis) -> None:
    """
    The exercise.
    """
    ideal = NAPS * 0.1 / WORKERS

    async def scenario(engine: str, at: Path) -> None:
        async with serving(engine, at, redis) as (one, lag):
            spent = time.process_time()
            took = [await run_all(one, engine, "bench.nap", NAPS) for _ in range(3)]
            spent = (time.process_time() - spent) / len(took)
            alone = [await run_alone(one, engine, at) for _ in range(3)] if engine in BROKERS else []
        late = p(lag.late, 0.99) * 1000
        ratio = statistics.median(took) / ideal
        say(f"{engine}: {NAPS} tasks of 0.1 s, total over ideal", f"{ratio:.2f}", "<= 1.15")
        if alone:
            say(f"{engine}: the same without our rows", f"{statistics.median(alone) / ideal:.2f}")
        say(f"{engine}: loop late meanwhile, p99", f"{late:.1f} ms", "< 10 ms")
        say(f"{engine}: processor, of this process alone", f"{spent:.2f} s")

    for engine in engines:
        at = folder / f"naps-{engine}"
        at.mkdir()
        asyncio.run(scenario(engine, at))


def nothing(engines: list[str], folder: Path, redis: Redis) -> None:
    """
    How many tasks there are in a second, from the commit that submits them to the end of the last one.
    """

    async def scenario(engine: str, at: Path) -> None:
        count = 100 if engine == "rq" else 1000
        async with serving(engine, at, redis) as (one, lag):
            rates = [count / await run_all(one, engine, "bench.nothing", count) for _ in range(3)]
        promise = ">= 500" if engine == "table" else ""
        say(f"{engine}: tasks that do nothing, a second", f"{statistics.median(rates):.0f}", promise)
        say(f"{engine}: loop late meanwhile, p99", f"{p(lag.late, 0.99) * 1000:.1f} ms", "< 10 ms")

    for engine in engines:
        at = folder / f"nothing-{engine}"
        at.mkdir()
        asyncio.run(scenario(engine, at))


def enqueue(engines: list[str], folder: Path, redis: Redis, store: str = "sqlite") -> None:
    """
    How long a request that asks for work takes, 50 a second, whatever the broker does; and by turns with it one to a
    bare route that inserts a row.
    """
    for engine in [each for each in engines if each in BROKERS] or ["celery"]:
        private = Redis(folder)
        states: dict[str, Callable[[], None]] = {
            "up": lambda: None,
            "frozen": partial(private.signal, signal.SIGSTOP),
            "down": private.stop,
        }
        at = folder / f"{store}-{engine}"
        settings = {"JOBS_ENGINE": engine, "JOBS_BROKER": private.url}
        with (
            temporary_database(store, at) as ours,
            temporary_database(store, at) as theirs,
            server("modern", at, url=ours if store == "postgresql" else "", **settings) as (connection, _, _),
            bare(at / "bare", theirs if store == "postgresql" else "") as floor,
        ):
            try:
                _enqueue(f"{engine}, {store}", connection, floor, states)
            finally:
                private.stop()


def _enqueue(
    title: str,
    connection: http.client.HTTPConnection,
    floor: http.client.HTTPConnection,
    states: dict[str, Callable[[], None]],
) -> None:
    both = (connection, floor)
    for _ in range(50):
        for each in both:
            post(each)
    for state, bring in states.items():
        bring()
        took: dict[http.client.HTTPConnection, list[float]] = {each: [] for each in both}
        for _ in range(400):
            for each in both:
                took[each].append(post(each))
                time.sleep(0.01)
        for each, what, promise in ((connection, "enqueue", "p99 < 5 ms"), (floor, "a bare insert", "")):
            figure = " / ".join(f"{p(took[each], share) * 1000:.1f}" for share in (0.5, 0.9, 0.99)) + " ms"
            say(f"{title}: {what}, broker {state}, p50 / p90 / p99", figure, promise)


def pickup(engines: list[str], folder: Path, redis: Redis) -> None:
    """
    From the row's time to its start.
    """
    for name in ("modern", "legacy"):
        with server(name, folder / f"pickup-{name}") as (connection, database, _):
            for _ in range(200):
                post(connection)
                time.sleep(0.03)
            database.calm()
            rows = database.query("SELECT created_at, started_at FROM tasks")
        waits = [
            (datetime.fromisoformat(row["started_at"]) - datetime.fromisoformat(row["created_at"])).total_seconds()
            for row in rows
        ]
        figure = f"{p(waits, 0.5) * 1000:.1f} / {p(waits, 0.99) * 1000:.1f} ms"
        say(f"{name}, table: from the row to its start, p50 / p99", figure, "p50 < 20 ms")


def idle(engines: list[str], folder: Path, redis: Redis) -> None:
    """
    The processor's time of a server that nobody asks, over half a minute: each application alone, both in the harness,
    each with its loops, and there with the loops that the harness gives one owner.
    """
    ticks = os.sysconf("SC_CLK_TCK")

    def spent(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    handed = "".join(f'[[loop]]\nname = "{loop}"\nlegacy = "service:{loop}"\nmodern = "{loop}"\n' for loop in LOOPS)
    cases = {
        "modern": ("modern", ""),
        "legacy": ("legacy", ""),
        "both, legacy answers": ("owned-legacy", ""),
        "both, modern answers": ("owned-modern", ""),
        "both, each loop with one owner": ("owned-legacy", handed),
    }
    for number, (name, (target, more)) in enumerate(cases.items()):
        with server(target, folder / f"idle-{number}", more) as (_, _, pid):
            time.sleep(3.0)
            before, began = spent(pid), time.monotonic()
            time.sleep(30.0)
            share = (spent(pid) - before) / (time.monotonic() - began)
        say(f"{name}: processor when idle", f"{share:.2%}", "< 1 %")


PARTS: dict[str, Callable[[list[str], Path, Redis], None]] = {
    "naps": naps,
    "nothing": nothing,
    "enqueue": enqueue,
    "pickup": pickup,
    "idle": idle,
    "enqueue-postgresql": partial(enqueue, store="postgresql"),
}
# Those that want no PostgreSQL server.
USUAL = tuple(PARTS)[:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[1])
    parser.add_argument("--only", default=",".join(USUAL), help="parts, by comma")
    parser.add_argument("--engines", default=",".join((*LOCAL, *BROKERS)), help="engines, by comma")
    given = parser.parse_args()
    assert ROOT.exists()
    with tempfile.TemporaryDirectory(prefix="bgserver-bench-") as folder:
        redis = Redis(Path(folder))
        try:
            for part in given.only.split(","):
                PARTS[part](given.engines.split(","), Path(folder), redis)
        finally:
            redis.stop()


if __name__ == "__main__":
    main()
