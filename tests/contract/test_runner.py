"""
The runner itself: whatever is wrong in an answer or its effects fails the case; what says too little is no case.

The server here is a socket that says what the test wants, and a data folder that the test fills.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.cases import COLUMNS, CaseError, load, parse
from tests.contract.patterns import expand, matches
from tests.contract.runner import Runner, mail_differences
from tests.contract.servers import ROOT, TARGETS
from tests.contract.stores import KEYS, Database

ID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
GOOD = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\nServer: x\r\n\r\n{}"
CASE = """
[[case]]
name = "one"
steps = [{ send = "POST /log?message=a", status = 202, body = "{}" }]
"""
EFFECTS = f"""
[[case]]
name = "one"
steps = [{{ send = "POST /log?message=a", status = 202, body = "{{}}" }}]
tasks = [{{ id = "{ID}", name = "log.write", params = '{{"message":"a"}}', result = '{{"n":1}}' }}]
rows = [{{ table = "items", item_id = "{ID}", name = "a", created_at = "<time>" }}]
files = [
  {{ path = "app.log", adds = '{{"message":"a","task_id":"{ID}"}}' }},
  {{ path = "processed/{ID}.txt", holds = "A" }},
]
"""
NOW = "2026-11-21T20:00:00.000000Z"


class Pretender:
    """
    A server that answers each connection with the next of `answers`, after it did what `acts` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder / 'jobs.db'}")
        self.database.query("PRAGMA synchronous = OFF")
        for statement in (ROOT / "modern_fastapi/migrations/sqlite/0001_initial.sql").read_text().split("--;"):
            self.database.query(statement)
        self.answers: list[bytes] = []
        self.acts: Callable[[], None] = self.log_request
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                self.acts()
                connection.sendall(self.answers.pop(0))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.database.close()

    def append(self, name: str, **entry: object) -> None:
        with (self.folder / name).open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def log_request(self) -> None:
        self.append("requests.log", at=NOW, method="POST", path="/log", status=202)

    def whole(self, task: str = "", change: str = "") -> Callable[[], None]:
        """
        All that EFFECTS promises; `task` is SQL that changes the task's row then, `change` that changes anything.
        """

        def act() -> None:
            self.log_request()
            self.database.query(
                "INSERT INTO tasks (id, name, params, run_at, created_at) VALUES (?, 'log.write', ?, ?, ?)",
                ID,
                '{"message": "a"}',
                NOW,
                NOW,
            )
            self.database.query("UPDATE tasks SET status = 'RUNNING', attempts = 1, started_at = ?", NOW)
            self.database.query("INSERT INTO items VALUES (?, 'a', ?)", ID, NOW)
            (self.folder / "processed").mkdir(exist_ok=True)
            (self.folder / "processed" / f"{ID}.txt").write_text("A")
            self.append("app.log", message="a", task_id=ID)
            self.database.query(
                "UPDATE tasks SET status = 'SUCCESS', progress = 1.0, result = '{\"n\":1}', finished_at = ?", NOW
            )
            if task:
                self.database.query(f"UPDATE tasks SET {task}")
            if change:
                self.database.query(change)

        return act

    def run(self, text: str, answer: bytes = GOOD) -> list[str]:
        self.answers = [answer] * text.count("send =")
        return Runner(self.address, self.folder, self.database).run(parse(text)[0])


@pytest.fixture
def pretender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretender]:
    # Nothing comes late in these tests: an effect that is missing is missing.
    monkeypatch.setattr("tests.contract.runner.SETTLE", 0.05)
    monkeypatch.setattr(Database, "calm", lambda self: None)
    made = Pretender(tmp_path)
    yield made
    made.close()


def test_a_right_answer_passes(pretender: Pretender) -> None:
    """
    What is as the case says gives no problem.
    """
    assert [] == pretender.run(CASE)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (GOOD.replace(b"202", b"200"), "status"),
        (GOOD.replace(b"{}", b"[]"), "body"),
        (GOOD.replace(b"Length: 2", b"Length: 3").replace(b"{}", b"{} "), "body"),
        (GOOD.replace(b"application/json", b"text/plain"), "Content-Type"),
        (GOOD.replace(b"application/json", b"application/json; charset=utf-8"), "Content-Type"),
        (GOOD.replace(b"Server: x", b"Allow: GET"), "Allow"),
        (GOOD.replace(b"Server: x", b"Retry-After: 5"), "Retry-After"),
        (GOOD.replace(b"Server: x", b"Location: /"), "Location"),
        (GOOD.replace(b"Server: x", b"Content-Disposition: attachment"), "Content-Disposition"),
        (GOOD.replace(b"Server: x", b"Set-Cookie: a=b"), "Set-Cookie"),
        (GOOD.replace(b"Server: x", b"Content-Type: application/json"), "Content-Type"),
        (GOOD.replace(b"Server: x", b"Content-Length: 2"), "Content-Length"),
        (GOOD.replace(b"Content-Length: 2\r\n", b""), "Content-Length: missing"),
        (GOOD + b"x", "follows the answer"),
        (GOOD[:-1], "closed"),
        (b"", "closed"),
        (b"hello\r\n\r\n", "no status line"),
        (GOOD.replace(b"Server: x", b"Server"), "no header"),
        (GOOD.replace(b"Length: 2", b"Length: two"), "no Content-Length"),
        (GOOD.replace(b"Server: x", b"Transfer-Encoding: chunked"), "both"),
    ],
)
def test_a_wrong_answer_fails(pretender: Pretender, answer: bytes, problem: str) -> None:
    """
    A wrong status, body, header or framing fails the case, and the message names it.
    """
    assert problem in "\n".join(pretender.run(CASE, answer))


def test_head_is_held_to_its_length(pretender: Pretender) -> None:
    """
    HEAD has no body to compare, so its Content-Length is compared.
    """
    text = CASE.replace("POST /log?message=a", "HEAD /log").replace('body = "{}"', 'length = 3, body = ""')

    assert "Content-Length of HEAD: expected 3, got 2" in "\n".join(pretender.run(text, GOOD[:-2]))


def test_a_body_after_head_fails(pretender: Pretender) -> None:
    """
    A body that follows the head of an answer to HEAD would be read as the next answer.
    """
    text = CASE.replace("POST /log?message=a", "HEAD /log").replace('body = "{}"', 'length = 2, body = ""')

    assert "follows the answer" in "\n".join(pretender.run(text, GOOD))


def test_right_effects_pass(pretender: Pretender) -> None:
    """
    The whole of EFFECTS, as promised: the tests below each change one thing of it.
    """
    pretender.acts = pretender.whole()

    assert [] == pretender.run(EFFECTS)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("name = 'log.read'", "name"),
        ('params = \'{"message":"b"}\'', "params"),
        ('params = \'{"message":"a","more":1}\'', "params"),
        ("result = NULL", "result"),
        ("result = '{\"n\":2}'", "result"),
        ("attempts = 2", "attempts"),
        ("failures = 1", "failures"),
        ("rescues = 1", "rescues"),
        ("max_attempts = 5", "max_attempts"),
        ("progress = 0.5", "progress"),
        ("error = 'E: x'", "error"),
        ("after_id = 'x'", "after_id"),
        ("priority = 1", "priority"),
        ("cancel_requested = 1", "cancel_requested"),
        ("engine = 'thread'", "engine"),
        ("unique_key = 'k'", "unique_key"),
        ("status = 'FAILURE'", "status"),
        ("finished_at = NULL", "finished_at"),
        ("started_at = 'yesterday'", "started_at"),
    ],
)
def test_a_wrong_task_row_fails(pretender: Pretender, task: str, problem: str) -> None:
    """
    Each column of a task's row that the contract speaks of is compared.
    """
    pretender.acts = pretender.whole(task)

    assert problem in "\n".join(pretender.run(EFFECTS))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM events WHERE status = 'RUNNING'", "history"),
        ("UPDATE items SET name = 'b'", "items: name"),
        ("DELETE FROM items", "items: there is no row"),
        (f"INSERT INTO items VALUES ('{OTHER}', 'b', '{NOW}')", "items: a row that no effect names"),
        (f"INSERT INTO users VALUES ('{OTHER}', 'a', 'a', 'b', '{NOW}')", "users: a row that no effect names"),
        (f"INSERT INTO subscriptions VALUES ('a', 'a', '{NOW}')", "subscriptions: a row that no effect names"),
        (
            f"INSERT INTO tasks (id, name, params, run_at, created_at) VALUES ('{OTHER}', '', '', '{NOW}', '{NOW}')",
            "tasks: a row that no effect names",
        ),
    ],
)
def test_wrong_rows_fail(pretender: Pretender, change: str, problem: str) -> None:
    """
    A row that is missing, different or not promised fails the case.
    """
    pretender.acts = pretender.whole(change=change)

    assert problem in "\n".join(pretender.run(EFFECTS))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (f"processed/{ID}.txt", "B", "expected 'A'"),
        (f"processed/{ID}.txt", None, "there is no such file"),
        (f"processed/{OTHER}.txt", "A", "a file that no effect names"),
        (f"uploads/{ID}", "a", "a file that no effect names"),
        ("evil.txt", "a", "nobody knows this file"),
        ("app.log", '{"message":"b","task_id":"x"}\n', "app.log"),
        ("app.log", None, "app.log"),
        ("app.log", f'{{"task_id":"{ID}","message":"a"}}\n', "app.log"),
        ("app.log", f'{{"message":"a","task_id":"{ID}"}}\n' * 2, "app.log"),
        ("app.log", f'{{"message":"a","task_id":"{ID}"}}\nhalf', "app.log"),
        ("admin.log", "{}\n", "admin.log"),
        ("requests.log", None, "requests.log"),
        ("requests.log", '{"at":"now","method":"POST","path":"/log","status":202}\n', "requests.log"),
        ("requests.log", f'{{"at":"{NOW}","method":"POST","path":"/log?message=a","status":202}}\n', "requests.log"),
        ("requests.log", f'{{"at":"{NOW}","method":"POST","path":"/log","status":200}}\n', "requests.log"),
        ("requests.log", f'{{"at":"{NOW}","method":"POST","path":"/log","status":202}}\n' * 2, "requests.log"),
    ],
)
def test_wrong_files_fail(pretender: Pretender, name: str, text: str | None, problem: str) -> None:
    """
    A file or a line that is missing, different or not promised fails the case.
    """

    def act() -> None:
        pretender.whole()()
        path = pretender.folder / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    pretender.acts = act

    assert problem in "\n".join(pretender.run(EFFECTS))


def test_a_late_effect_fails_the_next_case(pretender: Pretender) -> None:
    """
    What comes after a case was compared is not lost: its successor starts from the picture that was compared.
    """
    runner = Runner(pretender.address, pretender.folder, pretender.database)
    pretender.answers = [GOOD, GOOD]
    first = runner.run(parse(CASE)[0])
    pretender.database.query("INSERT INTO items VALUES (?, 'late', ?)", ID, NOW)

    second = runner.run(parse(CASE)[0])

    assert [] == first
    assert "items: a row that no effect names" in "\n".join(second)


def test_a_row_that_vanishes_fails(pretender: Pretender) -> None:
    """
    No case may lose what was there before it.
    """
    pretender.database.query("INSERT INTO items VALUES (?, 'old', ?)", ID, NOW)

    def act() -> None:
        pretender.log_request()
        pretender.database.query("DELETE FROM items")

    pretender.acts = act

    assert f"items: the row {ID} is gone" in "\n".join(pretender.run(CASE))


@pytest.mark.parametrize(
    "text",
    [
        CASE.replace("status = 202, ", ""),
        CASE.replace(', body = "{}"', ""),
        CASE.replace('body = "{}"', 'body = "{}", error = ["a", "b"]'),
        CASE.replace('body = "{}"', 'body = "{}", boddy = "{}"'),
        CASE.replace('body = "{}"', 'body = "{}", gives = { Alow = "GET" }'),
        CASE.replace('body = "{}"', 'body = "{}", json = "{}", content = "{}"'),
        CASE.replace('body = "{}"', 'body = "{}", length = 3'),
        CASE.replace('body = "{}"', 'body = "{}", type = "*"'),
        CASE.replace('body = "{}"', 'body = "<id>"'),
        CASE.replace('body = "{}"', 'body = "<uid:id>"'),
        CASE.replace("message=a", "message=<uuid>"),
        CASE.replace("message=a", "message=<uuid:a>"),
        CASE.replace("POST ", "HEAD "),
        CASE.replace("POST /log?message=a", "/log"),
        CASE.replace('name = "one"', 'name = "one"\nsettled = true'),
        CASE.replace("steps = [{", "steps = []\nstep = [{"),
        CASE + CASE,
        EFFECTS.replace(', created_at = "<time>"', ""),
        EFFECTS.replace('table = "items"', 'table = "users"'),
        EFFECTS.replace("result = ", "resullt = "),
        EFFECTS.replace('holds = "A"', 'has = "A"'),
        EFFECTS.replace('holds = "A"', 'adds = "A"'),
        EFFECTS.replace("adds = ", "holds = "),
        EFFECTS.replace("result = ", "error = 'E: x', result = "),
    ],
)
def test_a_case_that_says_too_little_or_too_much_is_refused(text: str) -> None:
    """
    A slip of the pen is an error, never a check that quietly doesn't happen.
    """
    with pytest.raises(CaseError):
        parse(text)


def test_every_table_is_known_whole() -> None:
    """
    The runner compares each column of each table that requests and tasks write, as the schema has them.
    """
    database = Database("sqlite:///:memory:")
    for statement in (ROOT / "modern_fastapi/migrations/sqlite/0001_initial.sql").read_text().split("--;"):
        database.query(statement)

    for table in KEYS:
        columns = {row["name"] for row in database.query(f"PRAGMA table_info({table})")}
        if table != "tasks":
            assert COLUMNS[table] == columns
    tables = {row["name"] for row in database.query("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    # What loops and processes write by the clock is no effect of a request.
    by_the_clock = {"cache", "events", "limits", "loops", "processes", "reports", "schema_version", "ticks"}
    assert {*KEYS, *by_the_clock} == {name for name in tables if not name.startswith("sqlite_")}


def test_every_route_has_cases() -> None:
    """
    Each route of the contract has a good case, a bad one, and one for what is allowed.
    """
    routes = {
        "GET /": "root",
        "GET /healthz": "healthz",
        "POST /send-notification/": "send-notification",
        "POST /log": "log",
        "POST /register": "register",
        "POST /upload": "upload",
        "GET /upload/": "upload",
        "POST /export": "export",
        "GET /export/": "export",
        "POST /process": "process",
        "POST /unstable": "unstable",
        "GET /task/": "task",
        "GET /tasks": "tasks",
        "POST /send-email": "send-email",
        "POST /subscribe": "subscribe",
        "POST /items": "items",
        "POST /process/": "process of an item",
        "POST /cleanup": "cleanup",
        "POST /compute": "compute",
        "DELETE /task/": "task",
        "HEAD /events": "events",
        "POST /login": "login",
        "GET /me": "me",
        "POST /logout": "logout",
        "GET /report/daily": "report",
    }
    steps = [step for case in load() for step in case.steps]

    for route in routes:
        method, prefix = route.split(" ")
        mine = [
            step for step in steps if step.path == prefix or (prefix[1:].endswith("/") and step.path.startswith(prefix))
        ]
        assert any(step.method == method and step.status < 300 for step in mine), route
        assert any(step.status == 405 for step in mine), route
        assert any(step.method == "OPTIONS" and step.status == 200 for step in mine), route


def test_patterns_match_whole_texts() -> None:
    """
    A pattern is never a prefix, and what is captured once must come again.
    """
    captured: dict[str, str] = {}

    assert matches("[<uuid:a>,<uuid:a>]", f"[{ID},{ID}]", captured)
    assert {"a": ID} == captured
    assert not matches("<uuid:a>", OTHER, captured)
    assert not matches("<uuid>", f"{ID}\n", {})
    assert not matches("<int>", "01", {})
    assert not matches("[<uuid:x>,<uuid:x>]", f"[{ID},{OTHER}]", {})
    assert f"aaa<b>{ID}" == expand("<fill:a:3><lt>b><a>", captured)


def test_mail_is_compared_whole() -> None:
    """
    Each header and the text of a mail count, and a header that nobody asked for fails it.
    """
    mail = (
        b"From: a@b\r\nTo: c@d\r\nSubject: s\r\nDate: Sat, 21 Nov 2026 20:00:00 +0000\r\nMessage-ID: <1@x>\r\n\r\nt\r\n"
    )
    expected = {"from": "a@b", "to": "c@d", "subject": "s", "text": "t\n"}

    assert [] == mail_differences("m", expected, mail)
    for old, new in (
        (b"To: c@d", b"To: c@e"),
        (b"To: c@d", b"To: c@d, e@f"),
        (b"Subject: s", b"Subject: t"),
        (b"Subject: s", b"Subject: s\r\nBcc: x@y"),
        (b"Subject: s", b"Subject: s\r\nTo: x@y"),
        (b"\r\n\r\nt", b"\r\n\r\nu"),
        (b"Date: Sat, 21 Nov 2026 20:00:00 +0000\r\n", b""),
    ):
        assert mail_differences("m", expected, mail.replace(old, new))


def test_the_document_says_how_much_is_compared() -> None:
    """
    docs/example.md has the number of the cases, of their answers, and of the targets, as they are now.
    """
    cases = load()
    answers = sum(len(case.steps) for case in cases)
    text = (ROOT / "docs" / "example.md").read_text("utf-8")

    assert f"{len(cases)} cases, {answers} answers, on {len(TARGETS)} targets" in text
    assert f"{answers * len(TARGETS):,} answers" in text
