"""
The engines: whatever runs a row, it goes through the same states; whatever a broker does, it ends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from modern_fastapi.app import create_app
from modern_fastapi.engines.relay import BATCH, Relay, Undeliverable
from modern_fastapi.loops.once import TICKING, tick_once
from modern_fastapi.schema import Event, Tick
from modern_fastapi.services import Services
from modern_fastapi.settings import RefusedToStart
from modern_fastapi.tasks import limits
from modern_fastapi.tasks.rows import Claim
from tests.contract.rabbit import temporary_vhost
from tests.modern.application import Running, SteppedClock, add, run, running, services, until
from tests.modern.test_rows import row

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ["table", "inline", "asyncio", "thread"]
RETRIED = ["PENDING", "RUNNING", "RETRY", "RUNNING", "RETRY", "RUNNING"]


async def history(one: Running, task_id: str) -> list[str]:
    """
    All states that a task has gone through.
    """
    async with one.services.database.read() as connection:
        wanted = select(Event.status).where(Event.task_id == task_id).order_by(Event.seq)
        return list((await connection.execute(wanted)).scalars())


async def behave(one: Running) -> None:
    """
    What every engine does with a task that succeeds, one that fails twice, one that fails for good, and three in a row.
    """
    post = one.client.post
    simple = (await post("/log?message=a")).json()["task_id"]
    twice = (await post("/unstable", json={"failures": 2})).json()["task_id"]
    always = (await post("/unstable", json={"failures": 3})).json()["task_id"]
    chain = (await post("/register", json={"email": "a@example.org", "name": "A"})).json()["task_ids"]

    ends = await one.ended(simple, twice, always, *chain)

    assert ["SUCCESS", "SUCCESS", "FAILURE", "SUCCESS", "SUCCESS", "SUCCESS"] == ends
    assert ["PENDING", "RUNNING", "SUCCESS"] == await history(one, simple)
    assert [*RETRIED, "SUCCESS"] == await history(one, twice)
    assert [*RETRIED, "FAILURE"] == await history(one, always)
    starts = [(await row(one.services, each)).started_at for each in chain]
    assert sorted(starts) == starts


@pytest.mark.parametrize("engine", LOCAL)
def test_local_engines_behave_alike(tmp_path: Path, engine: str) -> None:
    """
    After the response, as a task, in a thread or from the table: the same history of states.
    """

    async def scenario() -> None:
        async with running(tmp_path, engine=engine, poll=0.1) as one:
            await behave(one)
            assert engine == one.services.engine.name

    run(scenario())


WORKERS = {
    "celery": ["-m", "celery", "-A", "modern_fastapi.engines.celery_worker", "worker", "-c", "2", "-l", "WARNING"],
    "rq": ["-m", "rq.cli", "worker", "jobs", "-c", "modern_fastapi.engines.rq_worker"],
    "dramatiq": ["-m", "dramatiq", "modern_fastapi.engines.dramatiq_worker", "-p", "1", "-t", "4"],
}


@pytest.fixture
def redis() -> Iterator[str]:
    """
    An empty Redis database that nobody else uses.
    """
    client = pytest.importorskip("redis").Redis(port=6379, db=12)
    client.flushdb()
    yield "redis://127.0.0.1:6379/12"
    client.flushdb()
    client.close()


@contextmanager
def working(engine: str, data: Path, broker: str) -> Iterator[subprocess.Popen[bytes]]:
    """
    A worker process, as an operator starts it.
    """
    command = [sys.executable, *WORKERS[engine], *(["--url", broker] if engine == "rq" else [])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JOBS_DATA": str(data),
        "JOBS_ENGINE": engine,
        "JOBS_BROKER": broker,
    }
    with (data / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, cwd=data, env=environment, stdout=log, stderr=log)
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def children(pid: int) -> list[int]:
    """
    The processes that a process has started.
    """
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in listed.split()]


@pytest.mark.slow
@pytest.mark.servers("redis", "rabbitmq")
@pytest.mark.parametrize(
    ("engine", "rabbit"), [("celery", False), ("celery", True), ("rq", False), ("dramatiq", False), ("dramatiq", True)]
)
def test_brokers_behave_alike(tmp_path: Path, engine: str, rabbit: bool, redis: str) -> None:
    """
    With a worker as an operator starts it, each broker's engine has the same history as the table.
    """

    async def scenario(broker: str) -> None:
        async with running(tmp_path, engine=engine, broker=broker, poll=0.1, loops="rescue") as one:
            await behave(one)

    with temporary_vhost() if rabbit else nullcontext(redis) as broker, working(engine, tmp_path, broker):
        run(scenario(broker))


@pytest.mark.slow
@pytest.mark.servers("redis")
def test_emptied_broker_is_filled_again(tmp_path: Path, redis: str) -> None:
    """
    What was published and lost is published again: FLUSHDB costs time and nothing else.
    """

    async def scenario() -> None:
        client = pytest.importorskip("redis").Redis(port=6379, db=12)
        async with running(tmp_path, engine="celery", broker=redis, poll=0.1, loops="rescue") as one:
            one.services.engine._relay._patience = 1.0  # type: ignore[attr-defined]
            ids = [(await one.client.post("/log?message=a")).json()["task_id"] for _ in range(5)]

            async def published() -> bool:
                return int(client.llen("jobs")) >= 5

            await until(published)
            client.flushdb()
            with working("celery", tmp_path, redis):
                assert {"SUCCESS"} == set(await one.ended(*ids))
        client.close()

    run(scenario())


@pytest.mark.slow
@pytest.mark.servers("redis")
def test_killed_worker_loses_nothing(tmp_path: Path, redis: str) -> None:
    """
    D6: a worker that is killed in the middle of a task is dead at once, and the next one runs it from the start.
    """

    async def scenario() -> None:
        async with running(tmp_path, engine="dramatiq", broker=redis, poll=0.1, loops="rescue") as one:
            with working("dramatiq", tmp_path, redis) as first:
                task_id = (await one.client.post("/compute", json={"n": 10_000_000})).json()["task_id"]

                async def runs() -> bool:
                    return "RUNNING" == await one.status(task_id)

                await until(runs)
                for pid in (*children(first.pid), first.pid):
                    os.kill(pid, signal.SIGKILL)
            with working("dramatiq", tmp_path, redis):
                assert ["SUCCESS"] == await one.ended(task_id)
            now = await row(one.services, task_id)
        assert (2, 1) == (now.attempts, now.rescues)

    run(scenario())


def test_two_beats_tick_once(tmp_path: Path) -> None:
    """
    D4: two Beats send every tick twice, and a server may tick as well. The second finds it done.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            for name in TICKING:
                await tick_once(made, name)
                await tick_once(made, name)
            async with made.database.read() as connection:
                keys = sorted((await connection.execute(select(Tick.key))).scalars())
            assert ["cache_refresh@2026-11-21T12:00:00.000000Z", "cleanup@2026-11-21T12:00:00.000000Z"] == keys

    run(scenario())


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    An engine whose package is not installed is refused at start, with the line that installs it.
    """
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "celery" else find_spec(name, *a))

    with pytest.raises(RefusedToStart, match=r"pip install '\.\[celery\]'"):
        create_app({"data": tmp_path, "engine": "celery"})


def test_request_never_waits_for_a_broker(tmp_path: Path) -> None:
    """
    D2: with the broker frozen, submitting takes as long as with none, and the rows finish from the table.
    """
    pytest.importorskip("redis")

    async def scenario() -> None:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        frozen = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = frozen.sockets[0].getsockname()[1]
        settings = {"engine": "rq", "broker": f"redis://127.0.0.1:{port}/0", "poll": 0.1}
        async with running(tmp_path, **settings) as one:
            one.services.engine._relay._patience = 0.1  # type: ignore[attr-defined]
            took = []
            ids = []
            for _ in range(20):
                began = time.perf_counter()
                ids.append((await one.client.post("/log?message=a")).json()["task_id"])
                took.append(time.perf_counter() - began)
            assert max(took) < 1.0
            assert {"SUCCESS"} == set(await one.ended(*ids))
        frozen.close()
        await frozen.wait_closed()

    run(scenario())


def test_relay_hands_over_again_what_was_lost(tmp_path: Path) -> None:
    """
    A row that a broker was given, and that still waits, is given again after a pause that doubles. One that has
    started since is a new one.

    Seen to fail with the attempts left out of what the relay remembers: a retry waited for the whole pause.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            given: list[Sequence[str]] = []

            async def deliver(task_ids: Sequence[str]) -> None:
                given.append(task_ids)

            relay = Relay(made, "celery", deliver, patience=10.0)
            task_id = await add(made, engine="celery")

            async def look(seconds: float) -> int:
                clock.step(seconds)
                if due := await relay._due():
                    await relay._hand_over(due)
                return len(given)

            assert [1, 1, 2, 2, 3] == [
                await look(0),
                await look(9.9),
                await look(0.1),
                await look(19.9),
                await look(0.1),
            ]
            async with made.database.write() as connection:
                held = await made.rows.claim_one(connection, task_id)
                assert held is not None
                await made.rows.release(connection, held)
            assert 4 == await look(0)

    run(scenario())


def test_a_restart_sends_no_second_message(tmp_path: Path) -> None:
    """
    What a broker has been given stands in the rows: ten servers one after another send one message for each row of a
    backlog, however long it waits there. A broker that was emptied is given all of them again, once.

    Seen to fail with what was handed over kept in the relay's memory: each start sent all of them.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        queue: list[str] = []

        async def deliver(task_ids: Sequence[str]) -> None:
            queue.extend(task_ids)

        async def depth() -> int:
            return len(queue)

        async def serve(made: Services) -> None:
            relay = Relay(made, "celery", deliver, patience=10.0, depth=depth)
            for _ in range(5):
                while due := await relay._due():
                    await relay._hand_over(due)
                clock.step(11.0)

        async with services(tmp_path, clock) as made:
            ids = [await add(made, engine="celery") for _ in range(7)]
            for _ in range(10):
                await serve(made)
            assert ids == queue
            queue.clear()
            await serve(made)
            assert ids == queue

            async with made.database.write() as connection:
                held = await made.rows.claim_one(connection, ids[0])
                assert held is not None
                await made.rows.release(connection, held)
            await serve(made)
            assert [*ids, ids[0]] == queue  # its next attempt is another message

    run(scenario())


async def hear(made: Services, task_id: str) -> Claim | None:
    """
    A worker gets the message of a row.
    """
    return (await made.database.work(lambda connection: made.rows.claim_each(connection, [task_id])))[0]


async def finish(made: Services, held: Claim | None) -> None:
    assert held is not None
    assert [] == await made.database.work(lambda connection: made.rows.succeed(connection, [(held, None)]))


class Line:
    """
    A broker's queue, and a relay that fills it.
    """

    def __init__(self, made: Services) -> None:
        self.waiting: list[str] = []
        self.silent = False
        self.relay = Relay(made, "celery", self._deliver, patience=10.0, depth=self._depth)

    async def _deliver(self, task_ids: Sequence[str]) -> None:
        self.waiting.extend(task_ids)

    async def _depth(self) -> int:
        if self.silent:
            raise Undeliverable("no answer")
        return len(self.waiting)

    async def fill(self) -> None:
        while due := await self.relay._due():
            await self.relay._hand_over(due)


def test_a_message_that_is_lost_alone_is_sent_again_while_a_backlog_lasts(tmp_path: Path) -> None:
    """
    One of many messages goes astray, and the queue never runs empty. Those that were given later overtake its row, by
    which it is known; no other row gets a second message.

    Seen to fail where only a queue that had lost half of its messages was filled again.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            line = Line(made)
            ids = [await add(made, engine="celery") for _ in range(10)]
            await line.fill()
            assert ids == line.waiting
            astray = line.waiting.pop(3)
            sent = list(ids)
            for _ in range(30):
                clock.step(2.0)
                ids.append(await add(made, engine="celery"))
                held = await hear(made, line.waiting.pop(0))
                before = len(line.waiting)
                await line.fill()
                sent += line.waiting[before:]
                await finish(made, held)
            assert astray in line.waiting or "SUCCESS" == (await row(made, astray)).status
            assert sorted([*ids, astray]) == sorted(sent)

    run(scenario())


def test_a_broker_that_was_silent_for_a_moment_gets_one_message_again(tmp_path: Path) -> None:
    """
    One row of a backlog has a second message, since its broker did not say for a moment what it had. The first one
    comes in its old place, before many that were given earlier than the second: none of those is lost.

    Seen to fail where that row told when its message was given: the others had a second message, too.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            line = Line(made)
            ids = [await add(made, engine="celery") for _ in range(20)]
            await line.fill()
            clock.step(12.0)
            line.silent = True
            await line.fill()
            line.silent = False
            assert [*ids, ids[0]] == line.waiting

            held = await hear(made, line.waiting.pop(0))
            for _ in range(5):
                clock.step(6.0)
                await line.fill()
            assert [*ids[1:], ids[0]] == line.waiting
            await finish(made, held)

    run(scenario())


def test_a_clock_that_is_set_back_loses_no_message(tmp_path: Path) -> None:
    """
    The wall clock goes back by an hour: what a broker is given from then on isn't older than what ran before.

    Seen to fail where the latest moment that was ever reached stayed it: each message was taken for lost at once, and
    sent a second time, for an hour.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            line = Line(made)
            old = [await add(made, engine="celery") for _ in range(5)]
            await line.fill()
            held = await hear(made, line.waiting.pop(0))
            clock.step(3.0)
            await line.fill()
            await finish(made, held)
            clock.moment -= timedelta(hours=1)
            new = [await add(made, engine="celery") for _ in range(10)]
            await line.fill()
            for _ in range(5):
                held = await hear(made, line.waiting.pop(4))
                clock.step(3.0)
                await line.fill()
                await finish(made, held)

            assert [*old[1:], *new[5:]] == line.waiting

    run(scenario())


def test_a_message_that_was_refused_is_sent_again_when_its_name_may_start(tmp_path: Path) -> None:
    """
    A worker that gets the message of a paused name lets it go, for the row may not start. It is sent again once the
    name goes on, whatever else waits in the queue, and not before.

    Seen to fail where the row kept the mark of a message that was spent.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            line = Line(made)
            refused = await add(made, "api.unstable", {"failures": 0}, engine="celery")
            others = [await add(made, engine="celery") for _ in range(5)]
            await line.fill()
            await limits.pause(made.database, "api.unstable")
            assert await hear(made, line.waiting.pop(0)) is None
            clock.step(3.0)
            await line.fill()
            assert others == line.waiting

            await limits.pause(made.database, "api.unstable", False)
            await line.fill()
            assert [*others, refused] == line.waiting

    run(scenario())


def test_a_limited_name_gets_no_more_messages_than_it_has_places(tmp_path: Path) -> None:
    """
    What may not start would be refused: of a name with two places two messages are under way, and the next ones when
    those have started and ended.

    Seen to fail with all rows handed over.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            line = Line(made)
            await limits.limit(made.database, "api.unstable", concurrency=2)
            ids = [await add(made, "api.unstable", {"failures": 0}, engine="celery") for _ in range(5)]
            await line.fill()
            assert ids[:2] == line.waiting
            await finish(made, await hear(made, line.waiting.pop(0)))
            await line.fill()
            assert ids[1:3] == line.waiting

    run(scenario())


def test_a_shortage_that_passes_is_none(tmp_path: Path) -> None:
    """
    Messages that workers have fetched and not begun are missing for a moment. Only where they are for as long as the
    relay's patience, at each look, are they taken for lost.

    Seen to fail with one look in each ten seconds, which took that moment for all of it.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:
            line = Line(made)
            ids = [await add(made, engine="celery") for _ in range(7)]
            await line.fill()
            for _ in range(20):
                # Each look that is ten seconds after another sees the shortage, and the one between them none.
                fetched, line.waiting = line.waiting, []
                clock.step(6.0)
                await line.fill()
                line.waiting += fetched
                clock.step(4.0)
                await line.fill()
            assert ids == line.waiting

    run(scenario())


def test_unreachable_broker_leaves_the_rows_to_the_table(tmp_path: Path) -> None:
    """
    Where nothing can be delivered for long, any consumer finishes what was accepted.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        async with services(tmp_path, clock) as made:

            async def deliver(task_ids: Sequence[str]) -> None:
                raise Undeliverable("refused")

            relay = Relay(made, "celery", deliver, patience=10.0)
            ids = [await add(made, engine="celery") for _ in range(BATCH + 1)]
            later = await add(made, engine="celery", delay=60.0)
            await relay._hand_over(await relay._due())
            assert {"celery"} == {(await row(made, task_id)).engine for task_id in ids}
            clock.step(10.0)
            await relay._hand_over(await relay._due())
            assert {"table"} == {(await row(made, task_id)).engine for task_id in ids}
            assert "celery" == (await row(made, later)).engine

    run(scenario())


def test_unreachable_broker_is_not_asked_for_each_row(tmp_path: Path) -> None:
    """
    Each attempt takes a while of this process's time: the rows that come meanwhile wait for the next one.

    Seen to fail with an attempt for each ring.
    """

    async def scenario() -> None:
        async with services(tmp_path, poll=60.0) as made:
            attempts: list[Sequence[str]] = []

            async def deliver(task_ids: Sequence[str]) -> None:
                attempts.append(task_ids)
                raise Undeliverable("refused")

            async def tried() -> bool:
                return bool(attempts)

            relay = Relay(made, "celery", deliver)
            relaying = asyncio.ensure_future(relay.run())
            for _ in range(5):
                await add(made, engine="celery")
                relay.bell.ring()
                await until(tried)
                await asyncio.sleep(0.02)
            relaying.cancel()
            await asyncio.wait({relaying})
            assert 1 == len(attempts)

    run(scenario())


def test_row_of_a_lost_engine_is_found(tmp_path: Path) -> None:
    """
    Source 2's asyncio tasks die with their process; here the next process runs the row.
    """

    async def scenario() -> None:
        async with services(tmp_path) as made:
            task_id = await add(made, engine="asyncio")
        async with running(tmp_path, engine="asyncio", poll=0.1) as one:
            assert ["SUCCESS"] == await one.ended(task_id)

    run(scenario())


def test_a_silent_broker_is_sent_one_row_again(tmp_path: Path) -> None:
    """
    A broker that doesn't say what it has may have kept all of it: one row finds out. Where it stays away, they all go
    to the table, those that it was given among them.

    Seen to fail with silence taken for an empty broker, which sent a whole backlog again, and without forgetting the
    rest once it has been away for too long.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        given: list[Sequence[str]] = []
        away = False

        async def deliver(task_ids: Sequence[str]) -> None:
            given.append(task_ids)
            if away:
                raise Undeliverable("nobody there")

        async def depth() -> int:
            raise Undeliverable("nobody there")

        async with services(tmp_path, clock) as made:
            ids = [await add(made, engine="celery") for _ in range(5)]
            relay = Relay(made, "celery", deliver, patience=10.0, depth=depth)
            await relay._hand_over(await relay._due())
            assert [ids] == given

            clock.step(11.0)
            again = await relay._due()
            assert [ids[0]] == [task_id for task_id, _ in again]

            away = True
            for _ in range(4):
                if due := await relay._due():
                    await relay._hand_over(due)
                clock.step(11.0)
            assert ["table"] * 5 == [(await row(made, task_id)).engine for task_id in ids]

    run(scenario())


def test_paused_rows_hide_no_others(tmp_path: Path) -> None:
    """
    However many rows of a paused name wait before it, an engine of this process finds the row that may run.

    Seen to fail with the paused ones in the look, which is only as long as there is room.
    """

    async def scenario() -> None:
        async with services(tmp_path, engine="asyncio") as made:
            await limits.pause(made.database, "api.unstable")
            for _ in range(5):
                await add(made, "api.unstable", {"failures": 0}, engine="asyncio")
            task_id = await add(made, engine="asyncio")

            async def deliver(task_ids: Sequence[str]) -> None: ...

            relay = Relay(made, "asyncio", deliver, room=3)

            assert [task_id] == [found for found, _ in await relay._due()]

    run(scenario())


def test_a_retry_is_not_left_to_its_request(tmp_path: Path) -> None:
    """
    The inline engine leaves a new row to the request that made it for a while; a retry has no request any more, and is
    run when it is due.

    Seen to fail with the delay counted for both.
    """

    async def scenario() -> None:
        clock = SteppedClock()
        handed: list[str] = []

        async def deliver(task_ids: Sequence[str]) -> None:
            handed.extend(task_ids)

        async with services(tmp_path, clock, engine="inline") as made:
            failed = await add(made, "api.unstable", {"failures": 1}, engine="inline")
            await made.runner.execute(failed)
            clock.step(1.0)
            fresh = await add(made, engine="inline")
            relay = Relay(made, "inline", deliver, delay=2.0)
            await relay._hand_over(await relay._due())
            assert [failed] == handed
            clock.step(2.0)
            await relay._hand_over(await relay._due())
            assert [failed, fresh] == handed

    run(scenario())


def test_one_failing_task_does_not_skip_the_next(tmp_path: Path) -> None:
    """
    W8: of a request's BackgroundTasks the first exception skips the rest. Here each is a row of its own.
    """

    async def scenario() -> None:
        async with running(tmp_path, engine="inline", poll=0.1) as one:
            real = one.services.runner.execute
            broken: list[str] = []

            async def execute(task_id: str) -> None:
                if not broken:
                    broken.append(task_id)
                    raise RuntimeError("no")
                await real(task_id)

            one.services.runner.execute = execute  # type: ignore[method-assign]
            answer = await one.client.post("/register", json={"email": "a@example.org", "name": "A"})
            assert {"SUCCESS"} == set(await one.ended(*answer.json()["task_ids"]))

    run(scenario())
