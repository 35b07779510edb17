"""
The database: short transactions that never find a lock they can't wait for, and a schema that is checked first.
"""

from __future__ import annotations

import sqlite3
import threading

import pytest
from twisted.internet import task

from legacy_twisted.database import Database, DatabaseError, withoutPassword
from legacy_twisted.dialects import Connection


@pytest.fixture
def database(jobs):
    return jobs.database


def test_writers_wait_for_each_other(database):
    """
    A transaction that reads before it writes is never told "database is locked", however many there are.

    Seen to fail with a plain BEGIN: `sqlite3.OperationalError: database is locked`, in 0 ms, whatever the timeout.
    """
    errors = []

    def increment():
        try:
            for _ in range(20):
                database.writeNow(once)
        except Exception as error:
            errors.append(error)
        finally:
            database.forget()

    def once(connection):
        ticks = connection.row("SELECT ticks FROM loops WHERE name = 'cleanup'")["ticks"]
        connection.execute("UPDATE loops SET ticks = :n WHERE name = 'cleanup'", n=ticks + 1)

    # Another process's writer, as far as SQLite knows: it has no part in our queue.
    other = Database(database.url, None)
    other.pool = True
    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        other.writeNow(once)
    for thread in threads:
        thread.join()
    other.forget()

    assert [] == errors
    assert 100 == database.readNow(lambda c: c.row("SELECT ticks FROM loops WHERE name = 'cleanup'"))["ticks"]


def test_an_error_undoes_everything(database):
    """
    What a transaction has written before it failed isn't there, and the connection is good for the next one.
    """

    def fail(connection):
        connection.execute("UPDATE loops SET ticks = 5")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.writeNow(fail)

    assert 0 == database.readNow(lambda c: c.row("SELECT sum(ticks) AS n FROM loops"))["n"]


def test_a_newer_schema_is_refused(database):
    """
    A database of a newer program is left alone, and the error says what to do.
    """
    database.writeNow(lambda c: c.execute("UPDATE schema_version SET version = 9999"))

    with pytest.raises(DatabaseError, match=r"has schema 9999 and this program knows [0-9]+; run the newer program"):
        database.migrate()


def test_migrating_twice_changes_nothing(database):
    """
    The schema is brought up to date once; one row says which it is.
    """
    before = database.readNow(lambda c: c.rows("SELECT * FROM schema_version"))

    database.migrate()

    assert before == database.readNow(lambda c: c.rows("SELECT * FROM schema_version"))
    assert 1 == len(before)


def test_what_is_no_database(tmp_path):
    """
    A file that is something else is refused in one line.
    """
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough for a header" * 100)

    with pytest.raises(DatabaseError) as caught:
        Database(f"sqlite:///{tmp_path}/x.db", None).migrate()

    assert "\n" not in str(caught.value)
    assert "see the setting `database`" in str(caught.value)


def test_nothing_is_dropped_after_the_end(database):
    """
    adbapi drops a query on a closed pool without a word; ours fails.

    Seen to fail without the check in `_later`: the Deferred never fires.
    """
    failures = []
    closed = Database(database.url, task.Clock())

    closed.write(lambda c: None).addErrback(failures.append)

    assert "the database is closed" == failures[0].getErrorMessage()
    with pytest.raises(DatabaseError):
        closed.writeNow(lambda c: None)


def test_a_threads_connection_ends_with_it(database, monkeypatch):
    """
    Threads that come and go leave no connection behind.
    """
    opened = []
    connect = database.engine.connect
    monkeypatch.setattr(database.engine, "connect", lambda: opened.append(connect()) or opened[-1])

    thread = threading.Thread(target=lambda: database.readNow(lambda c: None))
    thread.start()
    thread.join()

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_what_others_have_committed(database):
    """
    A thread sees that another connection has committed, once, and takes no notice of its own commits.
    """
    change = "UPDATE loops SET ticks = ticks + 1"
    database.changedNow()
    database.writeNow(lambda c: c.execute(change))
    own = database.changedNow()

    other = threading.Thread(target=lambda: (database.writeNow(lambda c: c.execute(change)), database.forget()))
    other.start()
    other.join()

    assert [False, True, False] == [own, database.changedNow(), database.changedNow()]


def test_named_parameters_for_postgresql():
    """
    The one way to write parameters is translated, and percent signs and times in the text stay what they are.
    """
    engine = Database("postgresql://nobody@localhost/none", None).engine

    assert "x = %(id)s AND y LIKE 'a%%' AND z > '10:30'" == engine.translate("x = :id AND y LIKE 'a%' AND z > '10:30'")


def test_rows_changed():
    """
    `execute` tells how many rows were changed: that is how a claim or a fence sees that it was too late.
    """
    raw = sqlite3.connect(":memory:")
    connection = Connection(raw, str)
    connection.execute("CREATE TABLE t (n INTEGER)")
    connection.execute("INSERT INTO t VALUES (:n)", n=1)

    assert 1 == connection.execute("UPDATE t SET n = 2 WHERE n = :n", n=1)
    assert 0 == connection.execute("UPDATE t SET n = 2 WHERE n = :n", n=1)
    raw.close()


def test_passwords_are_not_shown():
    """
    An error names the database without its password.
    """
    assert "postgresql://u@h:5/n" == withoutPassword("postgresql://u:secret@h:5/n")
