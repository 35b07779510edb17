"""
A damaged state is said to be one, with what mends it; nothing is guessed of what is missing.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.errors import DamagedStateError, StateError, StateUnavailableError
from bridge.routing import Stage
from bridge.state import Store
from bridge.state.database import _explained


def changed(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "state.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE bgserver_stages", "has lost bgserver_stages"),
        ("DROP TABLE bgserver_audit", "has lost bgserver_audit"),
        ("DELETE FROM bgserver_meta WHERE name = 'changes'", "has lost its counter of changes"),
    ],
)
def test_a_lost_table_is_not_made_anew(url: str, tmp_path: Path, damage: str, said: str, create: bool) -> None:
    """
    An empty one in its place would send every route back to its start, with nobody told.

    Seen to fail where a start, or `bgctl set`, made what was missing.
    """
    Store.open(url).set_stage("GET /", Stage.MODERN, who="ann", why="")
    changed(tmp_path, damage)

    with pytest.raises(DamagedStateError, match=said) as caught:
        Store.open(url, create=create)

    assert "back-up" in str(caught.value)


def test_a_file_that_is_no_database_wants_a_back_up(url: str, tmp_path: Path) -> None:
    """
    No rights and no lock would help there.
    """
    (tmp_path / "state.db").write_text("garbage" * 500)

    with pytest.raises(DamagedStateError, match="Put a back-up in its place"):
        Store.open(url, create=False)


@pytest.mark.parametrize("kind", ["route", "loop"])
def test_a_stage_that_is_none_is_named_with_what_mends_it(store: Store, tmp_path: Path, kind: str) -> None:
    """
    And that mends it: no command could, since each reads all stages first.

    Seen to end in a traceback for a loop, and in the advice to use a command that was refused too for a route.
    """
    changed(tmp_path, f"INSERT INTO bgserver_stages VALUES ('{kind}', 'the ''odd'' one', 'beta', 0)")

    with pytest.raises(StateError, match="at 'beta', which is no stage") as caught:
        store.snapshot()

    remedy = str(caught.value).partition("policy starts it: ")[2]
    assert remedy.startswith("DELETE FROM bgserver_stages")
    changed(tmp_path, remedy)
    assert {} == store.snapshot().routes


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("database or disk is full", "Make room"),
        ("disk I/O error", "full or broken"),
        ("attempt to write a readonly database", "as the user that the server runs as"),
        ("connection failed: Connection refused", "PostgreSQL runs there"),
        ("unable to open database file", "it exists and is writable"),
        ("database is locked", "wait until that is done"),
        ("canceling statement due to lock timeout", "pg_stat_activity"),
    ],
)
def test_each_trouble_has_its_remedy(cause: str, remedy: str) -> None:
    """
    Whoever reads the line has to know what to do next.
    """
    found = _explained("sqlite:///x", "be written", cause)

    assert type(found) is StateUnavailableError
    assert remedy in str(found)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """
    Mounts a file system in memory, with options; again, for others.
    """
    place = tmp_path / "mounted"
    place.mkdir()

    def mount(*options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", place], capture_output=True)
        if done.returncode != 0:
            pytest.skip(f"may not mount here: {done.stderr.decode().strip()}")
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True)


@pytest.mark.timeout(20)
def test_a_state_that_nobody_can_write_is_read(mounted: Callable[..., Path]) -> None:
    """
    On a file system that was mounted read-only, as after a broken disk, the stages are still told, and a change is
    refused. Seen to fail without the look at the file system: SQLite can't make the files that it wants beside it.
    """
    url = f"sqlite:///{mounted('size=8m') / 'state.db'}"
    Store.open(url).set_stage("GET /x", Stage.SHADOW, who="a person", why="a try", at=1.0)
    mounted("remount", "ro")

    store = Store.open(url, create=False)

    assert Stage.SHADOW is store.stages()["GET /x"][0]
    with pytest.raises(StateUnavailableError, match="readonly"):
        store.set_stage("GET /x", Stage.LEGACY, who="a person", why="back", at=2.0)
    mounted("remount", "rw")
    store.set_stage("GET /x", Stage.LEGACY, who="a person", why="back", at=3.0)
    assert Stage.LEGACY is store.stages()["GET /x"][0]


@pytest.mark.timeout(20)
def test_a_state_that_is_written_through_another_mount_is_never_read_in_pieces(
    mounted: Callable[..., Path], tmp_path: Path
) -> None:
    """
    A folder is mounted read-only a second time, as for a container that only looks: what a server writes meanwhile is
    read, or the reader is told to try again. Seen to fail without the second glance: what was read stayed what it was.
    """
    folder, view = mounted("size=8m"), tmp_path / "view"
    url = f"sqlite:///{folder / 'state.db'}"
    written = Store.open(url)
    view.mkdir()
    subprocess.run(["mount", "--bind", folder, view], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", view], check=True)
        read = Store.open(f"sqlite:///{view / 'state.db'}", create=False)

        with read.database.at_once():
            before = read.stages()
            written.set_stage("GET /x", Stage.SHADOW, who="a person", why="a try", at=1.0)
            with pytest.raises(StateUnavailableError, match="another mount"):
                read.stages()
        # With somebody at work there SQLite's own files are there too, and it reads what they have committed.
        with written.database.writing("try") as connection:
            connection.exec_driver_sql("UPDATE bgserver_meta SET value = 77 WHERE name = 'changes'")
            meanwhile = (read.version(), read.stages())
        after = read.version()
    finally:
        subprocess.run(["umount", view], capture_output=True)

    shadowed = {"GET /x": (Stage.SHADOW, 0.0)}
    assert ({}, (1, shadowed), 77) == (before, meanwhile, after)


def holding(path: Path, begin: str) -> subprocess.Popen[bytes]:
    """
    Another process in the middle of a transaction; it ends with its input.
    """
    script = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}, isolation_level=None); c.execute({begin!r}); "
        "c.execute('SELECT * FROM bgserver_meta').fetchall(); print('held', flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    return other


def test_a_locked_state_is_called_locked_and_by_whom(store: Store, tmp_path: Path) -> None:
    """
    Who moves a route meanwhile reads what could not be done, which process holds it, and what helps.

    Seen to fail where each opening set the state up: it "can't be set up", and nobody was named; and where one that
    only reads was named too.
    """
    path = tmp_path / "state.db"
    reader, writer = holding(path, "BEGIN"), holding(path, "BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailableError) as caught:
        Store.open(f"sqlite:///{path}", patience=0.05).set_stage("GET /x", Stage.LIVE, who="ann", why="")
    for other in (reader, writer):
        other.communicate(b"\n")

    said = str(caught.value)
    assert "can't record that 'GET /x' moves to live: database is locked" in said
    assert "wait until that is done" in said
    assert str(reader.pid) not in said
    if sys.platform == "linux":
        assert f"by process {writer.pid} (python" in said


def test_nobody_else_is_blamed_for_a_lock_of_ones_own(store: Store, tmp_path: Path) -> None:
    """
    A server whose own thread writes is no other process.

    Seen to fail where the process that asks was named.
    """
    own = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    own.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailableError) as caught:
        store.set_stage("GET /x", Stage.LIVE, who="ann", why="")
    own.close()

    assert "database is locked. Another program" in str(caught.value)
