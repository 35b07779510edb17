"""
The uses of a course chapter: notices, mails, uploads, exports, clean-up, a registration that sets off three tasks, and
a log of every request; without the client choosing names on the server's disk.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sources.conftest import Stack

pytestmark = pytest.mark.slow



def test_a_task_after_the_response_has_its_arguments(stack: Stack) -> None:
    """
    The one of the path and the one of the query arrive where the work is done.
    """
    task = stack.post("/send-notification/eve@example.org?message=good%20news")["task_id"]
    stack.ended(task)

    [line] = stack.lines("notifications.log", task)

    assert ("eve@example.org", "good news") == (line["email"], line["message"])


def test_a_dependencys_task_comes_first(stack: Stack) -> None:
    """
    What the dependency adds runs before what the route adds, and the route's waits for it.
    """
    first, second = stack.post("/process/thing?q=looked%20for")["task_ids"]
    rows = [stack.ended(each) for each in (first, second)]

    assert (None, first) == tuple(row["after_id"] for row in rows)
    assert rows[0]["finished_at"] <= rows[1]["started_at"]
    assert "looked for" in json.dumps(stack.lines("app.log", first))


def test_a_log_line_is_written_in_the_background(stack: Stack) -> None:
    """
    One line, by the task.
    """
    task = stack.post("/log?message=remember")["task_id"]
    stack.ended(task)

    assert ["remember"] == [line["message"] for line in stack.lines("app.log", task)]


def test_an_upload_is_converted_and_its_original_goes(stack: Stack) -> None:
    """
    The result is kept and can be fetched; the original is removed.
    """
    accepted = stack.upload("notes.txt", b"one two\nthree\n")
    stack.ended(accepted["task_id"])

    kept = stack.ask("GET", f"/upload/{accepted['upload_id']}").body

    assert b"ONE TWO\nTHREE" in kept
    assert accepted["upload_id"] not in os.listdir(stack.data / "uploads")


def test_a_clients_file_name_names_no_file(stack: Stack) -> None:
    """
    The fault: the article joins the client's file name to a folder. Here it is only told, and the server chooses.
    """
    before = {path for path in stack.data.parent.rglob("*") if "evil" in path.name}
    accepted = stack.upload("../../evil.sh", b"x")
    stack.ended(accepted["task_id"])

    assert before == {path for path in stack.data.parent.rglob("*") if "evil" in path.name}
    assert not (stack.data.parent.parent / "evil.sh").exists()
    assert [accepted["upload_id"]] == [
        path.stem for path in (stack.data / "processed").iterdir() if path.name.startswith(accepted["upload_id"])
    ]


def test_an_export_is_fetched_by_its_id(stack: Stack) -> None:
    """
    The table as CSV, with the tasks that there were.
    """
    task = stack.post("/log?message=exported")["task_id"]
    stack.ended(task)
    accepted = stack.post("/export?format=csv")
    stack.ended(accepted["task_id"])

    answer = stack.ask("GET", f"/export/{accepted['export_id']}")
    rows = list(csv.reader(io.StringIO(answer.body.decode())))

    assert "attachment" in (answer.one("content-disposition") or "")
    assert task in {cell for row in rows for cell in row}


def test_old_files_are_removed_below_the_servers_own_folders_alone(stack: Stack, tmp_path: Path) -> None:
    """
    Files older than so many days go. The fault: in the article the client names the folder; here there is no such name.
    """
    exports = stack.data / "exports"
    stranger, old, young = tmp_path / "old.txt", exports / "old.csv", exports / "young.csv"
    for path in (stranger, old, young):
        path.write_text("x")
    for path in (stranger, old):
        os.utime(path, (time.time() - 30 * 86400,) * 2)

    row = stack.ended(stack.post(f"/cleanup?days=7&directory={tmp_path}&path={tmp_path}")["task_id"])

    assert (True, False, True) == (stranger.exists(), old.exists(), young.exists())
    assert "old.csv" in row["result"]
    young.unlink()


@pytest.mark.parametrize("name", ["legacy", "modern"])
def test_a_registration_sets_off_three_tasks_and_one_that_fails_stops_none(
    serve: Callable[..., Stack], name: str
) -> None:
    """
    Welcome mail, directory entry and note, in that order. The mail can't be sent here; the others are done.
    """
    stack = serve(name, JOBS_SMTP_HOST="127.0.0.1", JOBS_SMTP_PORT="1")
    answer = stack.ask("POST", "/register", {"email": "ann@example.org", "name": "Ann"})
    tasks = json.loads(answer.body)["task_ids"]

    rows = [stack.ended(each) for each in tasks]

    assert 201 == answer.status
    assert ["email.welcome", "directory.create", "admin.notify"] == [row["name"] for row in rows]
    assert ["FAILURE", "SUCCESS", "SUCCESS"] == [row["status"] for row in rows]
    assert [None, tasks[0], tasks[1]] == [row["after_id"] for row in rows]


def test_a_failing_task_never_touches_the_answer(stack: Stack) -> None:
    """
    The client was told that it is accepted, and nothing after that changes it; the next request is served.
    """
    answer = stack.ask("POST", "/unstable", {"failures": 3})
    row = stack.ended(json.loads(answer.body)["task_id"])

    assert (202, "FAILURE") == (answer.status, row["status"])
    assert 200 == stack.ask("GET", "/").status


@pytest.mark.parametrize("engine", ["inline", "asyncio", "thread"])
def test_a_task_has_a_database_session_of_its_own(serve: Callable[..., Stack], engine: str) -> None:
    """
    The request's session is closed when its answer is sent; a task that reads the database opens one.
    """
    stack = serve("modern", JOBS_ENGINE=engine)

    row = stack.ended(stack.post("/export?format=json")["task_id"])

    assert "SUCCESS" == row["status"]


def test_every_request_is_logged_in_the_background(stack: Stack) -> None:
    """
    The exercise: a line for each request, written after its answer, and no task row for it.
    """
    target = "/task/00000000-0000-4000-8000-000000000000"
    before = stack.stored.query("SELECT count(*) AS n FROM tasks")
    assert 404 == stack.ask("GET", target).status

    deadline = time.monotonic() + 20
    while target not in (stack.data / "requests.log").read_text("utf-8"):
        assert time.monotonic() < deadline, "the request was not logged"
        time.sleep(0.02)

    assert before == stack.stored.query("SELECT count(*) AS n FROM tasks")
