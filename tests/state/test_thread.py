"""
The thread between the loop and the state: it follows, it writes, and a bad database never stops the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.errors import ReplacedStateError, StateError, StateUnavailableError
from bridge.routing import Stage
from bridge.state import Snapshot, StateThread, Store


class World:
    """
    A thread on a state that the test can break, and what it told the loop.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.told: asyncio.Queue[Snapshot] = asyncio.Queue()
        self.pages: int | None = None
        self.thread = StateThread(self.opens, self.told.put_nowait, every=0.02, depth=3)

    def opens(self) -> Store:
        store = Store.open(self.url, create=False, patience=0.05)
        if self.pages is not None:
            pages = self.pages

            @sa.event.listens_for(store.database.engine, "connect")
            def _small_disk(connection: sqlite3.Connection, record: object) -> None:
                connection.execute(f"PRAGMA max_page_count = {pages}")

        return store

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 -- it comes true on another thread, which has no event for it
            await asyncio.sleep(0.005)

    def lock(self) -> sqlite3.Connection:
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return other


def in_world(folder: Path, play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World(folder / "state.db")
        made = Store.open(world.url)
        made.close()
        try:
            await asyncio.wait_for(play(world), 30)
        finally:
            await world.thread.stop()

    asyncio.run(run())


def start(world: World, known: int = 0) -> None:
    world.thread.start(asyncio.get_running_loop(), known)


def test_what_another_process_changes_is_told_on_the_loop(tmp_path: Path) -> None:
    """
    Within a turn of the poll, on the loop's own thread, once.
    """

    async def play(world: World) -> None:
        start(world)
        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="bgctl", why="")

        snapshot = await world.told.get()

        assert (snapshot.version, snapshot.routes) == (1, {"GET /x": (Stage.LIVE, 0.0)})
        assert world.told.empty()

    in_world(tmp_path, play)


def test_a_call_answers_and_its_change_is_told_before_the_next_turn(tmp_path: Path) -> None:
    """
    The process that changes something doesn't wait for its own poll: it looks as soon as a glance can tell whether
    there was more, C{FRESH} seconds later.
    """

    async def play(world: World) -> None:
        world.thread.every = 3600
        start(world)

        change = await world.thread.call(Store.set_stage, "GET /x", Stage.LIVE, who="ann", why="")
        snapshot = await world.told.get()

        assert change is not None
        assert snapshot.version == 1

    in_world(tmp_path, play)


def test_each_change_is_one_line_in_every_process_that_follows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Who moved what from where to where, and why, oldest first.  Breaks where only the gate's own moves are said.
    """
    caplog.set_level(logging.INFO, "bridge.state")

    async def play(world: World) -> None:
        world.thread.own = "gate@here"
        with contextlib.closing(Store.open(world.url)) as other:
            other.set_stage("GET /x", Stage.LIVE, who="eve", why="before the start")
            start(world, known=1)
            other.set_stage("GET /x", Stage.CANARY, 5, who="ann", why="look", forced=True)
            other.set_loop_stage("ticker", "live", who="bob", why="")
            other.set_stage("GET /x", Stage.LEGACY, who="gate@here", why="said at once")
            while (await world.told.get()).version < 4:
                pass

    in_world(tmp_path, play)

    assert [
        "route GET /x: live -> canary 5 %, by ann: forced: look",
        "loop ticker: legacy -> live, by bob: no reason given",
    ] == [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_a_change_between_two_reads_of_a_look_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What comes after the stages were read and before the log is, is told once, and hides nothing older.

    Seen to fail with the newest rows taken for those that the counter had counted: the older change was never told.
    """
    caplog.set_level(logging.INFO, "bridge.state")
    read = Store.snapshot
    later: list[Store] = []

    def snapshot(self: Store) -> Snapshot:
        found = read(self)
        if later and found.version == 1:
            later.pop().set_stage("GET /y", Stage.LIVE, who="bob", why="second")
        return found

    async def play(world: World) -> None:
        with contextlib.closing(Store.open(world.url)) as other:
            later.append(other)
            monkeypatch.setattr(Store, "snapshot", snapshot)
            start(world, known=0)
            other.set_stage("GET /x", Stage.LIVE, who="ann", why="first")
            while (await world.told.get()).version < 2:
                pass

    in_world(tmp_path, play)

    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert ["first", "second"] == [line.rpartition(": ")[2] for line in told]


def test_nothing_runs_on_the_loops_thread(tmp_path: Path) -> None:
    """
    Every call blocks, so none may block the loop.
    """

    async def play(world: World) -> None:
        start(world)

        ran = await world.thread.call(lambda store: threading.current_thread())

        assert ran is not threading.current_thread()

    in_world(tmp_path, play)


def test_an_error_of_a_call_is_its_callers(tmp_path: Path) -> None:
    """
    And the thread goes on.
    """

    async def play(world: World) -> None:
        start(world)

        with pytest.raises(ZeroDivisionError):
            await world.thread.call(lambda store: 1 // 0)
        assert await world.thread.call(Store.version) == 0

    in_world(tmp_path, play)


def test_a_locked_database_keeps_offered_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Nothing that fits the queue is lost; what doesn't is counted; trouble and recovery are said once each.
    """

    async def play(world: World) -> None:
        start(world)
        lock = world.lock()
        taken = [world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0) for _ in range(3)]
        await world.until(lambda: world.thread.health().problem is not None)
        late = world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0)
        with pytest.raises(StateUnavailableError, match="locked"):
            await world.thread.call(Store.set_stage, "GET /x", Stage.LIVE, who="ann", why="")
        lock.execute("COMMIT")
        lock.close()
        await world.until(lambda: world.thread.health().waiting == 0)

        assert (taken, late) == ([True] * 3, False)
        assert world.thread.health().lost == 1
        assert await world.thread.call(Store.counts, "r", "i") == {"same": 3}
        await world.until(lambda: world.thread.health().problem is None)

    with caplog.at_level(logging.WARNING, "bridge.state"):
        in_world(tmp_path, play)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "last known stages" in said[0]
    assert "1 writes were lost" in said[1]


def test_the_loop_goes_on_while_the_database_is_slow(tmp_path: Path) -> None:
    """
    A write that hangs for as long as it likes costs the loop nothing.
    """

    async def play(world: World) -> None:
        start(world)
        hanging, goes_on = threading.Event(), threading.Event()

        def hang(store: Store) -> None:
            hanging.set()
            goes_on.wait()

        world.thread.offer(hang)
        await world.until(hanging.is_set)
        for _ in range(1000):
            await asyncio.sleep(0)
        goes_on.set()

        assert await world.thread.call(Store.version) == 0

    in_world(tmp_path, play)


def test_a_database_that_is_gone_is_no_new_and_empty_one(tmp_path: Path) -> None:
    """
    Seen to fail with a plain sqlite3.connect, which made an empty file: every route would have gone back to its
    start stage.  When the file is there again, it is followed again.
    """

    async def play(world: World) -> None:
        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="ann", why="")
        start(world)
        await world.told.get()
        moved = world.path.rename(world.path.with_name("elsewhere.db"))
        await world.until(lambda: world.thread.health().problem is not None)
        assert not world.path.exists()

        moved.rename(world.path)
        await world.until(lambda: world.thread.health().problem is None)
        Store.open(world.url).set_stage("GET /x", Stage.LEGACY, who="ann", why="")

        assert (await world.told.get()).routes == {"GET /x": (Stage.LEGACY, 0.0)}
        assert world.told.empty()

    in_world(tmp_path, play)


def test_a_database_that_was_replaced_before_the_first_look_is_not_followed(tmp_path: Path) -> None:
    """
    A server reads the state, and its thread opens it later: a new one that is made in between is another one too.

    Seen to fail where the thread took the first that it opened for its own: every route went back to its start.
    """

    async def play(world: World) -> None:
        read = Store.open(world.url)
        read.set_stage("GET /x", Stage.LIVE, who="ann", why="")
        world.thread.born = read.database.born()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{world.path}{suffix}").unlink(missing_ok=True)
        Store.open(world.url).set_stage("GET /y", Stage.LIVE, who="bgctl", why="")

        start(world)
        await world.until(lambda: "in its place" in str(world.thread.health().problem))

        assert world.told.empty()

    in_world(tmp_path, play)


def test_another_database_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Somebody takes the database away, and something makes a new one in its place: it is said, nothing is read of it or
    written to it, and with the old one back all goes on.

    Seen to fail where only the path counted: the new one's stages, none, were told.
    """

    async def play(world: World) -> None:
        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="ann", why="")
        start(world)
        await world.told.get()
        for suffix in ("", "-wal", "-shm"):
            path = Path(f"{world.path}{suffix}")
            if path.exists():
                path.rename(tmp_path / f"old.db{suffix}")
        other = Store.open(world.url)
        other.set_stage("GET /y", Stage.LIVE, who="bgctl", why="")
        await world.until(lambda: "in its place" in str(world.thread.health().problem))
        world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0)
        with pytest.raises(ReplacedStateError):
            await world.thread.call(Store.set_stage, "GET /x", Stage.LEGACY, who="ann", why="")

        assert world.told.empty()
        assert ({}, ["GET /y"]) == (other.counts("r", "i"), list(other.stages()))
        other.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{world.path}{suffix}").unlink(missing_ok=True)
            if (tmp_path / f"old.db{suffix}").exists():
                (tmp_path / f"old.db{suffix}").rename(f"{world.path}{suffix}")
        await world.until(lambda: world.thread.health().waiting == 0)
        assert await world.thread.call(Store.counts, "r", "i") == {"same": 1}

    with caplog.at_level(logging.WARNING, "bridge.state"):
        in_world(tmp_path, play)
    assert 1 == sum("last known stages" in record.getMessage() for record in caplog.records)


def test_trouble_is_known_however_many_call(tmp_path: Path) -> None:
    """
    With calls waiting all the time there is a look between two of them.

    Seen to fail where calls came first: each waited for a locked database, and nobody heard that it was locked.
    """

    async def play(world: World) -> None:
        start(world)
        await world.thread.call(Store.version)
        world.path.rename(tmp_path / "elsewhere.db")
        asked = 0

        async def insist() -> None:
            nonlocal asked
            while world.thread.health().problem is None:
                asked += 1
                with contextlib.suppress(StateError):
                    await world.thread.call(Store.version)

        await asyncio.gather(*(insist() for _ in range(50)))

        assert "can't be opened" in str(world.thread.health().problem)
        assert asked < 200

    in_world(tmp_path, play)


def test_a_full_disk_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Stages of other processes are followed while nothing can be written, and that is said once, not at each turn.
    """

    async def play(world: World) -> None:
        world.pages = 1
        start(world)
        world.thread.offer(Store.add_sample, "r", "i", "f", "x" * 60_000, 1.0)
        await world.until(lambda: world.thread.health().problem is not None)
        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="bgctl", why="")

        snapshot = await world.told.get()
        with pytest.raises(StateUnavailableError, match="full"):
            await world.thread.call(Store.add_sample, "r", "i", "f", "x" * 60_000, 1.0)

        assert snapshot.routes == {"GET /x": (Stage.LIVE, 0.0)}
        assert "full" in str(world.thread.health().problem)
        assert world.thread.health().waiting == 1

    with caplog.at_level(logging.WARNING, "bridge.state"):
        in_world(tmp_path, play)
    assert sum("last known stages" in record.getMessage() for record in caplog.records) == 1


def test_a_write_that_can_never_work_does_not_block_the_others(tmp_path: Path) -> None:
    """
    A mistake of the caller's is no trouble of the database's: given up, counted, logged.
    """

    async def play(world: World) -> None:
        start(world)
        world.thread.offer(lambda store: {}["no"])
        world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0)
        await world.until(lambda: world.thread.health().waiting == 0)

        assert world.thread.health().lost == 1
        assert world.thread.health().problem is None
        assert await world.thread.call(Store.counts, "r", "i") == {"same": 1}

    in_world(tmp_path, play)


def test_it_begins_when_the_database_can_be_opened(tmp_path: Path) -> None:
    """
    A server under force_legacy may start without its state, and finds it later.
    """

    async def play(world: World) -> None:
        away = world.path.rename(world.path.with_name("elsewhere.db"))
        start(world, -1)
        await world.until(lambda: world.thread.health().problem is not None)

        away.rename(world.path)

        assert (await world.told.get()).version == 0

    in_world(tmp_path, play)


def test_an_idle_state_is_left_closed(tmp_path: Path) -> None:
    """
    While nobody writes, a look is a glance at the file, and opens no connection; what is written is told all the same.

    Seen to fail without the glance: each look opened two connections.
    """
    opened: list[float] = []

    async def play(world: World) -> None:
        start(world)
        await world.thread.call(Store.version)
        store = world.thread._store
        assert store is not None
        sa.event.listen(store.database.engine, "connect", lambda *_: opened.append(1.0))
        # The files' clock has to move on first, and one whole look has to see it.
        await world.until(lambda: world.thread._looked_at is not None)
        opened.clear()
        turns = [asyncio.sleep(world.thread.every) for _ in range(20)]
        for turn in turns:
            await turn
        assert [] == opened

        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="bgctl", why="")
        assert (await asyncio.wait_for(world.told.get(), 2)).version == 1

    in_world(tmp_path, play)


def test_a_call_opens_one_connection_and_its_look_none(tmp_path: Path) -> None:
    """
    What an idle server does most, renewing a lease, costs one connection: when the files' clock has moved on, a glimpse
    shows that no stage was changed. Where one was, it is told.

    Seen to fail, with six, where each transaction had its own and a look came before its glance could be kept; with
    two, where that look was a whole one.
    """
    opened: list[float] = []

    async def play(world: World) -> None:
        world.thread.every = 0.2
        start(world)
        await world.thread.call(Store.version)
        await world.until(lambda: world.thread._looked_at is not None)
        store = world.thread._store
        assert store is not None
        lease = await world.thread.call(Store.acquire, "gate", "me", None)
        await asyncio.sleep(1.0)
        sa.event.listen(store.database.engine, "connect", lambda *_: opened.append(1.0))

        assert lease is not None
        await world.thread.call(Store.renew_all, [lease])
        await asyncio.sleep(1.0)

        assert 1 == len(opened)

        await world.thread.call(Store.renew_all, [lease])
        Store.open(world.url).set_stage("GET /x", Stage.LIVE, who="bgctl", why="")
        assert (await asyncio.wait_for(world.told.get(), 2)).version == 1

    in_world(tmp_path, play)


def test_calls_that_a_beat_brings_together_share_a_connection(tmp_path: Path) -> None:
    """
    Leases that are renewed and a sign of life come on the same beat, and open the database once.

    Seen to fail, with a connection for each call, where the thread closed it after the first.
    """
    opened: list[float] = []

    async def play(world: World) -> None:
        world.thread.every = 3600
        start(world)
        lease = await world.thread.call(Store.acquire, "gate", "me", None)
        assert lease is not None
        store = world.thread._store
        assert store is not None
        during: list[int] = []

        async def ask(function: Callable[..., Any], *args: Any) -> None:
            await world.thread.together()
            await world.thread.call(lambda store: (function(store, *args), during.append(len(opened))))

        sa.event.listen(store.database.engine, "connect", lambda *_: opened.append(1.0))
        await asyncio.gather(ask(Store.renew_all, [lease]), ask(Store.present, "me", False, 1.0))

        assert [1, 1] == during

    in_world(tmp_path, play)


def test_an_error_among_calls_that_come_together_is_one_callers(tmp_path: Path) -> None:
    """
    Whoever called before and after has an answer.

    Seen to fail where what a lot had answered before its error was told to nobody.
    """

    async def play(world: World) -> None:
        start(world)

        async def ask(function: Callable[[Store], Any]) -> Any:
            await world.thread.together()
            return await world.thread.call(function)

        calls: list[Callable[[Store], Any]] = [Store.version, lambda store: 1 // 0, Store.version]
        first, second, third = await asyncio.gather(*map(ask, calls), return_exceptions=True)

        assert (0, 0) == (first, third)
        assert isinstance(second, ZeroDivisionError)

    in_world(tmp_path, play)


def test_the_stop_writes_what_was_offered(tmp_path: Path) -> None:
    """
    Evidence of the last second isn't lost; after that nothing is taken, and it is said.
    """

    async def play(world: World) -> None:
        start(world)
        for _ in range(3):
            world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0)

        assert await world.thread.stop() is True

        assert Store.open(world.url).counts("r", "i") == {"same": 3}
        assert world.thread.offer(Store.version) is False
        with pytest.raises(StateError, match="stopping"):
            await world.thread.call(Store.version)

    in_world(tmp_path, play)


def test_the_stop_waits_only_so_long(tmp_path: Path) -> None:
    """
    A database that hangs doesn't hold the process.
    """

    async def play(world: World) -> None:
        start(world)
        goes_on = threading.Event()
        world.thread.offer(lambda store: goes_on.wait())
        world.thread.offer(Store.add_counts, "r", "i", {"same": 1}, 1.0)

        assert await world.thread.stop(patience=0.05) is False

        assert world.thread.health().lost >= 1
        goes_on.set()

    in_world(tmp_path, play)


def test_a_thread_that_never_started_stops(tmp_path: Path) -> None:
    """
    A start that failed halfway can still be undone.
    """

    async def play(world: World) -> None:
        assert await world.thread.stop() is True

    in_world(tmp_path, play)
