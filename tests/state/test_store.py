"""
The store: whole changes, one winner, and refusals that say what is wrong.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest

from bridge.errors import NewerStateError, StaleChangeError, StateError, StateUnavailableError
from bridge.routing import Stage
from bridge.state import Store
from bridge.state.schema import SCHEMA
from bridge.state.stages import Standing


def test_a_change_is_logged_with_who_when_from_to_and_why(any_store: Store) -> None:
    """
    The audit log has a row for each change, the newest first.
    """
    any_store.set_stage("GET /x", Stage.SHADOW, who="ann", why="begin", at=1.5)
    any_store.set_stage("GET /x", Stage.CANARY, 5.0, who="bob", why="go", forced=True, evidence=7, at=2.5)

    newest, oldest = any_store.audit("GET /x")
    assert (newest.who, newest.at, newest.why) == ("bob", 2.5, "go")
    assert (newest.old, newest.new) == (Standing("shadow"), Standing("canary", 5.0))
    assert (newest.forced, newest.evidence) == (True, 7)
    assert (oldest.old, oldest.new) == (Standing("legacy"), Standing("shadow"))
    assert any_store.stages() == {"GET /x": (Stage.CANARY, 5.0)}


def test_each_change_raises_the_counter(any_store: Store) -> None:
    """
    Other processes see by one number that there is something to read.
    """
    before = any_store.version()
    any_store.set_stage("GET /x", Stage.LIVE, who="ann", why="")
    any_store.set_loop_stage("consumer", "live", who="ann", why="")

    assert any_store.version() == before + 2
    assert any_store.snapshot().version == before + 2


def test_standing_still_writes_nothing(any_store: Store) -> None:
    """
    Only a change of stage writes a row of state, at the policy's start stage too.
    """
    change = any_store.set_stage("GET /x", Stage.SHADOW, who="ann", why="", start=(Stage.SHADOW, 0.0))

    assert change is None
    assert (any_store.stages(), any_store.audit(), any_store.version()) == ({}, [], 0)


def test_a_change_from_a_stale_view_is_refused(any_store: Store) -> None:
    """
    Who saw canary doesn't promote what was rolled back in the meantime.
    """
    any_store.set_stage("GET /x", Stage.CANARY, 5.0, who="gate", why="")
    any_store.set_stage("GET /x", Stage.LEGACY, who="ann", why="")

    with pytest.raises(StaleChangeError) as caught:
        any_store.set_stage("GET /x", Stage.LIVE, who="gate", why="", expect=(Stage.CANARY, 5.0))

    assert (caught.value.expected, caught.value.found) == ("canary 5 %", "legacy")
    assert any_store.stages() == {"GET /x": (Stage.LEGACY, 0.0)}
    assert any_store.version() == 2


def test_of_many_that_move_one_route_one_wins(any_store: Store) -> None:
    """
    Ten threads swap from the same view: one change, one row, nine refusals.
    """
    outcomes: list[object] = []

    def move(who: int) -> None:
        try:
            outcomes.append(any_store.set_stage("GET /x", Stage.LIVE, who=str(who), why="", expect=(Stage.LEGACY, 0.0)))
        except StateError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=move, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    refused = [found for found in outcomes if found in (StaleChangeError, StateUnavailableError)]
    assert len(refused) == 9
    assert len(any_store.audit()) == 1


def test_loops_and_routes_are_kept_apart(any_store: Store) -> None:
    """
    A loop may be called like a route.
    """
    any_store.set_loop_stage("x", "live", who="ann", why="", from_stage="legacy")
    any_store.set_stage("x", Stage.MODERN, who="ann", why="")

    assert any_store.loop_stages() == {"x": "live"}
    assert any_store.stages() == {"x": (Stage.MODERN, 0.0)}
    assert [change.kind for change in any_store.audit("x", kind="loop")] == ["loop"]


def test_when_a_route_was_moved_last_is_read_for_all_at_once(any_store: Store) -> None:
    """
    Loops are no routes, and the last move counts.
    """
    any_store.set_stage("GET /x", Stage.SHADOW, who="ann", why="", at=1.0)
    any_store.set_stage("GET /x", Stage.LEGACY, who="ann", why="", at=3.0)
    any_store.set_stage("GET /y", Stage.SHADOW, who="ann", why="", at=2.0)
    any_store.set_loop_stage("consumer", "live", who="ann", why="", at=9.0)

    assert any_store.moved_at() == {"GET /x": 3.0, "GET /y": 2.0}
    assert any_store.moved_at("GET /y") == {"GET /y": 2.0}


def test_what_is_written_is_there_after_a_new_start(url: str) -> None:
    """
    State outlives the process.
    """
    first = Store.open(url)
    first.set_stage("GET /x", Stage.LIVE, who="ann", why="")
    first.close()

    assert Store.open(url).stages() == {"GET /x": (Stage.LIVE, 0.0)}


def test_a_writing_transaction_holds_the_lock_from_its_beginning(url: str, store: Store) -> None:
    """
    A read that turns into a write is "locked" in 0 ms, whatever the timeout (D8): seen to fail when writing
    transactions began with BEGIN, after which the other connection got the lock.
    """
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)

    with store.database.writing("try") as connection:
        connection.exec_driver_sql("SELECT 1")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")

    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_later_versions_database_is_refused_in_one_line(url: str, store: Store) -> None:
    """
    A downgrade must not read what it doesn't understand.
    """
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE bgserver_meta SET value = ? WHERE name = 'schema'", (SCHEMA + 1,))
    other.close()

    for create in (True, False):
        with pytest.raises(NewerStateError) as caught:
            Store.open(url, create=create)
        assert caught.value.found == SCHEMA + 1
        assert "\n" not in str(caught.value)


def test_looking_makes_nothing(url: str) -> None:
    """
    bgctl status on a fresh folder leaves no file behind.
    """
    with pytest.raises(StateUnavailableError):
        Store.open(url, create=False)

    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_database_without_our_tables_is_no_state(url: str) -> None:
    """
    Reading somebody else's database says so, rather than showing an empty state.
    """
    sqlite3.connect(url.removeprefix("sqlite:///")).execute("CREATE TABLE theirs (x)").connection.close()

    with pytest.raises(StateUnavailableError, match="no tables"):
        Store.open(url, create=False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nothing", "no database URL"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("mysql://host/name", "SQLite"),
        ("sqlite:////no/such/folder/state.db", "unable to open"),
        ("postgresql://nobody:secret@127.0.0.1:1/name", r"nobody:\*\*\*@127"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(url: str, says: str) -> None:
    """
    The address without its password, the reason, and what to do.
    """
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")

    with pytest.raises(StateError, match=says) as caught:
        Store.open(url)

    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(url: str) -> None:
    """
    Whatever it is, it isn't overwritten.
    """
    path = Path(url.removeprefix("sqlite:///"))
    path.write_bytes(b"this is a letter to my aunt, and no database at all" * 100)

    with pytest.raises(StateUnavailableError, match="not a database"):
        Store.open(url)

    assert path.read_bytes().startswith(b"this is a letter")


def test_a_stage_of_another_world_is_named(url: str, store: Store) -> None:
    """
    A row that nobody here could have written is an error, not a guess.
    """
    store.set_stage("GET /x", Stage.LIVE, who="ann", why="")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as other:
        other.execute("UPDATE bgserver_stages SET stage = 'beta'")
    other.close()

    with pytest.raises(StateError, match="'beta'"):
        store.stages()


def _open(url: str, answers: multiprocessing.Queue[str]) -> None:
    try:
        Store.open(url).close()
        answers.put("opened")
    except Exception as error:
        answers.put(repr(error))


def test_many_processes_may_set_one_state_up_at_once(url: str) -> None:
    """
    Workers that start together find one schema, made once.
    """
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=_open, args=(url, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()

    assert found == ["opened"] * 3


def test_connections_that_were_cut_are_made_anew(any_store: Store) -> None:
    """
    A PostgreSQL that was restarted, or a firewall that forgot: the next look works again.
    """
    if any_store.database.engine.dialect.name == "postgresql":
        with pytest.raises(StateUnavailableError), any_store.database.writing("go on") as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    assert any_store.version() == 0
    assert any_store.set_stage("GET /x", Stage.LIVE, who="ann", why="") is not None
