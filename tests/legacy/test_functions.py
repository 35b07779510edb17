"""
What tasks do: the same when they are done again, in constant memory, and below our own folder only.
"""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legacy_twisted import functions, tasks
from legacy_twisted.primes import countPrimes


class Attempt:
    """
    What a function is given, without a worker.
    """

    def __init__(self, jobs, params, attempts=1) -> None:
        self.jobs = jobs
        self.params = params
        self.id = "0" * 8
        self.row = {"attempts": attempts, "failures": attempts - 1, "created_at": tasks.timestamp(), "seq": 10**6}
        self.again = attempts > 1
        self.writes = []

    def checkpoint(self, progress=0.0):
        pass

    def atEnd(self, write, **values):
        self.writes.append((write, values))


def upload(jobs, data, name="u"):
    with open(jobs.settings.path("uploads", name), "wb") as file:
        file.write(data)
    return Attempt(jobs, {"upload_id": name})


def read(jobs, *path):
    with open(jobs.settings.path(*path), "rb") as file:
        return file.read()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.text("aß \n\r\t\u2028\xa0", max_size=80).map(str.encode)))
def test_counts(jobs, monkeypatch, data):
    """
    Lines, words and bytes are those of the whole text, wherever the chunks end, and the text is in upper case.
    """
    monkeypatch.setattr(functions, "CHUNK", 3)
    text = data.decode("utf-8", "replace")
    lines = text.count("\n") + (not text.endswith("\n") and text != "")

    counts = functions.processFile(upload(jobs, data))

    assert {"lines": lines, "words": len(text.split()), "bytes": len(data)} == counts
    head, _, kept = read(jobs, "processed", "u.txt").partition(b"\n")
    assert f"# lines={lines} words={len(text.split())} bytes={len(data)}".encode() == head
    assert text.upper().encode() == kept


def test_done_again_after_the_last_step(jobs):
    """
    A process that dies after the original was removed: the next attempt says what the first one would have said.
    """
    attempt = upload(jobs, b"one two\nthree")
    first = functions.processFile(attempt)

    assert first == functions.processFile(attempt)
    assert [] == os.listdir(jobs.settings.path("uploads"))


def test_nothing_half_done_is_seen(jobs, monkeypatch):
    """
    A cancelled conversion leaves the original and no other file.
    """
    attempt = upload(jobs, b"text" * 100)
    monkeypatch.setattr(attempt, "checkpoint", lambda progress: progress == 0.5 and 1 / 0)

    with pytest.raises(ZeroDivisionError):
        functions.processFile(attempt)

    assert ["u"] == os.listdir(jobs.settings.path("uploads"))
    assert [] == os.listdir(jobs.settings.path("processed"))


def test_a_log_line_once(jobs):
    """
    A second attempt of the same task doesn't write its line again; another task's same message does.
    """
    first = Attempt(jobs, {"message": "hä"})
    again = Attempt(jobs, {"message": "hä"}, attempts=2)
    other = Attempt(jobs, {"message": "hä"}, attempts=2)
    other.id = "1" * 8

    for attempt in (first, again, other):
        functions.writeLog(attempt)

    lines = [json.loads(line) for line in read(jobs, "app.log").splitlines()]
    assert ["00000000", "11111111"] == [line["task_id"] for line in lines]


def test_cleanup_stays_at_home(jobs, tmp_path):
    """
    The article's clean-up took its folder from the client; ours knows its own, follows no link, and spares what
    unfinished tasks need.
    """
    old = time.time() - 10 * 86400
    outside = tmp_path / "precious"
    outside.write_text("x")
    os.symlink(outside, jobs.settings.path("uploads", "link"))
    needed = jobs.database.writeNow(lambda c: tasks.insert(c, "file.process", {"upload_id": "needed"}))
    for name in ("uploads/needed", "uploads/old", "outbox/old.eml", f"outbox/{needed}.eml", "exports/new.csv"):
        path = jobs.settings.path(name)
        open(path, "w").close()
        os.utime(path, (old, old) if "new" not in name else None)
    os.utime(outside, (old, old))

    removed = functions.cleanFiles(Attempt(jobs, {"days": 7}))

    assert {"removed": ["outbox/old.eml", "uploads/old"]} == removed
    assert outside.exists()
    assert ["link", "needed"] == sorted(os.listdir(jobs.settings.path("uploads")))


def test_exports(jobs):
    """
    All tasks before the export's own, page by page; what a second attempt writes replaces the first.
    """
    for _ in range(3):
        jobs.database.writeNow(lambda c: tasks.insert(c, "log.write", {"message": "x"}))
    for kind in ("csv", "json"):
        attempt = Attempt(jobs, {"export_id": "e", "format": kind})
        first = functions.exportData(attempt)
        assert first == functions.exportData(attempt)
        assert 3 == first["rows"]

    lines = read(jobs, "exports", "e.csv").split(b"\r\n")
    rows = json.loads(read(jobs, "exports", "e.json"))
    assert (b"id,name,status,attempts,created_at,finished_at", 5, b"") == (lines[0], len(lines), lines[-1])
    assert lines[1].decode().split(",")[0] == rows[0]["id"]
    assert ["e.csv", "e.json"] == sorted(os.listdir(jobs.settings.path("exports")))


def test_an_empty_export(jobs):
    """
    Without tasks there is a header, or an empty array.
    """
    for kind in ("csv", "json"):
        functions.exportData(Attempt(jobs, {"export_id": "e", "format": kind}))

    assert b"id,name,status,attempts,created_at,finished_at\r\n" == read(jobs, "exports", "e.csv")
    assert b"[]\n" == read(jobs, "exports", "e.json")


def test_canonical_json(jobs):
    """
    The digest doesn't depend on the order of keys, and a lone surrogate has one too.
    """
    one = functions.processData(Attempt(jobs, {"data": {"b": 1, "a": ["ä", "\ud800"]}}))
    two = functions.processData(Attempt(jobs, {"data": {"a": ["ä", "\ud800"], "b": 1}}))

    assert one == two
    assert 2 == one["keys"]


def test_upserts_can_be_repeated(jobs):
    """
    A subscription and a directory entry that are there already are brought up to date.
    """
    for name in ("A", "B"):
        for function, params in (
            (functions.confirmSubscription, {"email": "x@Example.org"}),
            (functions.createEntry, {"user_id": "1", "email": "x@example.org", "name": name}),
        ):
            attempt = Attempt(jobs, params)
            function(attempt)
            write, values = attempt.writes[0]
            jobs.database.writeNow(write, **values)

    assert [("x@example.org", "x@Example.org")] == jobs.sql("SELECT email_key, email FROM subscriptions")
    assert [("1", "B")] == jobs.sql("SELECT user_id, name FROM directory")


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 0), (2, 1), (3, 2), (100, 25), (7919, 1000), (10**6, 78498)])
def test_primes(n, count):
    """
    Known counts, the edges among them.
    """
    assert count == countPrimes(n)
