"""
Runs one case against one running server, and names every difference between what it promises and what is seen.

A case promises all of its effects: after it, the rows, files and lines that it names are there, and no others are.
Late effects of one case are therefore found at the next one, whose picture of before is this one's of after.
"""

from __future__ import annotations

import csv
import email
import email.policy
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from tests.contract.cases import HEADERS, Case, FileEffect, Step, TaskEffect
from tests.contract.patterns import Captured, expand, matches
from tests.contract.stores import KEYS, TERMINAL, Database, Files, Row, lines_between, look
from tests.contract.wire import Answer, Connection, WireError, request_bytes

SETTLE = 5.0  # seconds that effects other than tasks may take to be seen


@attrs.frozen
class Picture:
    """
    Rows and files at one moment.
    """

    rows: Mapping[str, Mapping[str, Row]]
    files: Files


@attrs.define
class Tally:
    """
    How many cases were run, how many answers compared with what they promise, and how many cases did not hold.
    """

    cases: int = 0
    answers: int = 0
    different: int = 0

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.answers} answers compared, {self.different} differences"


@attrs.define
class Runner:
    """
    The cases' way to one server. Its owner starts and stops the server, and gives the same runner all cases.
    """

    address: tuple[str, int]
    data: Path
    database: Database
    tally: Tally = attrs.Factory(Tally)
    _last: Picture | None = attrs.field(default=None, init=False)
    _calm: bool = attrs.field(default=True, init=False)

    def forget(self) -> None:
        """
        Other requests than a case's were made: the next case starts from a picture of its own, once they are over.
        """
        self._last = None
        self._calm = False

    def picture(self) -> Picture:
        return Picture(self.database.rows(), look(self.data))

    def run(self, case: Case) -> list[str]:
        """
        Every difference, as one line each; none where the case holds.
        """
        problems = self._run(case)
        self.tally.cases += 1
        self.tally.different += bool(problems)
        return problems

    def _run(self, case: Case) -> list[str]:
        if not self._calm:
            self.database.calm()
            self._calm = True
        rows = [given for given in case.given if "table" in given]
        for row in rows:
            self.database.insert(row)
        for given in case.given:
            if "file" in given:
                _put(self.data / given["file"], given["holds"], given["days"])
        try:
            before = self.picture() if self._last is None else self._with_given(self._last, case)
            self._last = None
            captured: dict[str, str] = {}
            problems = self._steps(case, captured)
            if not problems:
                after, problems = self._effects(case, captured, before)
                if not problems:
                    self._last = _without_given(after, case)
            self._calm = not problems
            return problems
        finally:
            for row in rows:
                self.database.delete(row)
            for given in case.given:
                if "file" in given:
                    (self.data / given["file"]).unlink(missing_ok=True)

    def _with_given(self, last: Picture, case: Case) -> Picture:
        if not case.given:
            return last
        rows = {table: dict(each) for table, each in last.rows.items()}
        others = dict(last.files.others)
        seen = self.picture()
        for raw in case.given:
            if "file" in raw:
                others[raw["file"]] = seen.files.others[raw["file"]]
            elif raw["table"] in KEYS:
                key = raw[KEYS[raw["table"]]]
                rows[raw["table"]][key] = seen.rows[raw["table"]][key]
        return Picture(rows, attrs.evolve(last.files, others=others))

    def _steps(self, case: Case, captured: Captured) -> list[str]:
        jar: dict[str, str] | None = {} if case.jar else None
        kept: list[Connection] = []
        try:
            for number, step in enumerate(case.steps, 1):
                problems = self._step(step, captured, jar, kept)
                if problems:
                    return [f"step {number} ({step.method} {step.target[:80]}): {problem}" for problem in problems]
        finally:
            for connection in kept:
                connection.close()
        return []

    def _step(self, step: Step, captured: Captured, jar: dict[str, str] | None, kept: list[Connection]) -> list[str]:
        """
        One step, on the connection in `kept` where the one before it left one there.
        """
        for task in (expand(name, captured) for name in step.after):
            status = self.database.settle(task)
            if status not in TERMINAL:
                return [f"task {task} is {status} instead of ended"]
        try:
            connection = kept.pop() if kept else Connection(self.address)
            kept.append(connection)
            answer = connection.exchange(self._request(step, captured, jar), step.method, keep=step.keep)
        except (WireError, OSError) as error:
            return [f"{type(error).__name__}: {error}"]
        if answer.closed or not step.keep:
            kept.pop().close()
        if jar is not None:
            answer = _kept(jar, answer)
        return self.compare(step, answer, captured)

    def _request(self, step: Step, captured: Captured, jar: Mapping[str, str] | None) -> bytes:
        content = step.content
        cookies = ["Cookie: " + "; ".join(f"{name}={value}" for name, value in jar.items())] if jar else []
        return request_bytes(
            step.method,
            expand(step.target, captured),
            f"{self.address[0]}:{self.address[1]}",
            [*(expand(line, captured) for line in step.headers), *cookies],
            expand(content, captured).encode() if isinstance(content, str) else content,
            [expand(chunk, captured).encode() for chunk in step.chunks] if step.chunks is not None else None,
            step.keep,
        )

    def compare(self, step: Step, answer: Answer, captured: Captured) -> list[str]:
        """
        Every difference between one answer and its step.
        """
        self.tally.answers += 1
        problems: list[str] = []
        if step.status != answer.status:
            problems.append(f"status: expected {step.status}, got {answer.status}")
        expected = {"Content-Type": step.type or None, **{name: step.gives.get(name) for name in HEADERS}}
        for name, pattern in expected.items():
            value = answer.one(name.lower())
            if pattern == "*":
                continue
            if pattern is None or value is None:
                if pattern is not value:
                    problems.append(f"{name}: expected {pattern!r}, got {value!r}")
            elif not matches(pattern, value, captured):
                problems.append(f"{name}: expected {pattern!r}, got {value!r}")
        problems += _length(step, answer)
        actual = answer.body.decode("utf-8", "surrogateescape")
        if step.body_of is not None:
            held = (self.data / expand(step.body_of, captured)).read_bytes()
            if held != answer.body:
                problems.append(f"body: expected the {len(held)} bytes of {step.body_of}, got {_short(actual)}")
        elif not matches(step.body, actual, captured):
            problems.append(f"body: expected {_short(step.body)}, got {_short(actual)}")
        return problems

    def _effects(self, case: Case, captured: Captured, before: Picture) -> tuple[Picture, list[str]]:
        for task in case.tasks:
            if task.ended:
                self.database.settle(expand(task.id, captured))
        deadline = time.monotonic() + SETTLE
        while True:
            after = self.picture()
            problems = self._differences(case, captured, before, after)
            if not problems or time.monotonic() > deadline:
                return after, problems
            time.sleep(0.01)

    def _differences(self, case: Case, captured: Captured, before: Picture, after: Picture) -> list[str]:
        # What effects capture counts only once they all hold.
        trial = dict(captured)
        return [
            *self._rows(case, trial, before, after),
            *self._files(case, trial, before.files, after.files),
            *self._logs(case, trial, before.files.logs, after.files.logs),
        ]

    def _rows(self, case: Case, captured: Captured, before: Picture, after: Picture) -> list[str]:
        problems: list[str] = []
        expected: dict[tuple[str, str], Callable[[Row], list[str]]] = {}
        for task in case.tasks:
            key = expand(task.id, captured)
            expected["tasks", key] = lambda row, task=task: self._task(task, row, captured)
        for raw in case.rows:
            key = expand(raw[KEYS[raw["table"]]], captured)
            expected[raw["table"], key] = lambda row, raw=raw: _row(raw, row, captured)
        for table in KEYS:
            old, new = before.rows[table], after.rows[table]
            for key in old.keys() - new.keys():
                problems.append(f"{table}: the row {key} is gone")
            for key, row in new.items():
                check = expected.pop((table, key), None)
                if check is not None:
                    problems += check(row)
                elif key not in old:
                    problems.append(f"{table}: a row that no effect names: {row}")
                elif row != old[key]:
                    problems.append(f"{table}: the row {key} became {row}")
        problems += [f"{table}: there is no row {key}" for table, key in expected]
        return problems

    def _task(self, task: TaskEffect, row: Row, captured: Captured) -> list[str]:
        problems = [
            f"task {row['name']}: {column}: expected {_expanded(value, captured)!r}, got {row[column]!r}"
            for column, value in task.columns.items()
            if value != "*" and not _same(_expanded(value, captured), row[column])
        ]
        params = expand(task.params, captured)
        if _canonical(params) != _canonical(row["params"]):
            problems.append(f"task {row['name']}: params: expected {_short(params)}, got {_short(row['params'])}")
        result = row["result"] if row["result"] is None else _compact(row["result"])
        if (task.result is None) != (result in (None, "null")) or (
            task.result is not None and not matches(task.result, str(result), captured)
        ):
            problems.append(f"task {row['name']}: result: expected {task.result}, got {result}")
        history = self.database.history(row["id"])
        if task.history != history:
            problems.append(f"task {row['name']}: history: expected {task.history}, got {history}")
        known = {"created_at": True, "started_at": row["attempts"] > 0, "finished_at": task.ended}
        for column, there in known.items():
            if (row[column] is not None) != there or (there and not matches("<time>", row[column], {})):
                problems.append(f"task {row['name']}: {column}: {row[column]!r}")
        return problems

    def _files(self, case: Case, captured: Captured, before: Files, after: Files) -> list[str]:
        problems = [f"{name}: nobody knows this file" for name in sorted(after.strangers - before.strangers)]
        expected = {expand(each.path, captured): each for each in case.files if each.adds is None}
        for name in before.others.keys() - after.others.keys():
            if name not in expected or not expected.pop(name).gone:
                problems.append(f"{name}: gone")
        for name, facts in after.others.items():
            effect = expected.pop(name, None)
            if effect is not None and effect.gone:
                problems.append(f"{name}: still there")
            elif effect is not None:
                problems += self._file(effect, self.data / name, captured)
            elif name not in before.others:
                problems.append(f"{name}: a file that no effect names, of {facts[0]} bytes")
            elif facts != before.others[name]:
                problems.append(f"{name}: changed")
        problems += [f"{name}: there is no such file" for name in expected]
        return problems

    def _file(self, effect: FileEffect, path: Path, captured: Captured) -> list[str]:
        data = path.read_bytes()
        if effect.holds is not None:
            expected = expand(effect.holds, captured).encode()
        elif effect.export is not None:
            expected = self._export(expand(effect.export, captured), path.suffix)
        else:
            return _mail(effect, data, captured)
        if expected != data:
            return [f"{path.name}: expected {_short(expected.decode())}, got {_short(data.decode(errors='replace'))}"]
        return []

    def _export(self, task: str, suffix: str) -> bytes:
        """
        What an export must hold: the tasks created before its own, read and written here without the server.
        """
        names = ("id", "name", "status", "attempts", "created_at", "finished_at")
        rows = self.database.query(
            f"SELECT {', '.join(names)} FROM tasks WHERE seq < (SELECT seq FROM tasks WHERE id = ?) ORDER BY seq", task
        )
        if suffix == ".json":
            return (json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
        return text.getvalue().encode()

    def _logs(self, case: Case, captured: Captured, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
        problems: list[str] = []
        for name in ("notifications.log", "app.log", "admin.log"):
            expected = [
                _pairs(expand(each.adds, captured))
                for each in case.files
                if each.path == name and each.adds is not None
            ]
            lines = lines_between(self.data / name, before[name], after[name])
            if expected != [_pairs(line) for line in lines]:
                problems.append(f"{name}: expected the lines {_short(repr(expected))}, got {_short(repr(lines))}")
        wanted = Counter((step.method, expand(step.path, captured), step.status) for step in case.steps)
        name = "requests.log"
        entries = [_pairs(line) for line in lines_between(self.data / name, before[name], after[name])]
        found = Counter(_request_line(entry) for entry in entries)
        if wanted != found:
            problems.append(f"requests.log: missing {list(wanted - found)}, surplus {list(found - wanted)}")
        return problems


def _without_given(picture: Picture, case: Case) -> Picture:
    rows = {table: dict(each) for table, each in picture.rows.items()}
    for raw in case.given:
        if raw.get("table") in KEYS:
            rows[raw["table"]].pop(raw[KEYS[raw["table"]]], None)
    given = {raw.get("file") for raw in case.given}
    others = {name: facts for name, facts in picture.files.others.items() if name not in given}
    return Picture(rows, attrs.evolve(picture.files, others=others))


def _put(path: Path, text: str, days: float) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))


def _kept(jar: dict[str, str], answer: Answer) -> Answer:
    """
    `answer` without its cookies, which go into `jar`, or out of it.
    """
    for cookie in answer.all("set-cookie"):
        pair, *attributes = (part.strip() for part in cookie.split(";"))
        name, _, value = pair.partition("=")
        expired = any(each.lower() in ("max-age=0", "expires=thu, 01 jan 1970 00:00:00 gmt") for each in attributes)
        if expired:
            jar.pop(name, None)
        else:
            jar[name] = value
    return attrs.evolve(answer, headers=tuple(each for each in answer.headers if each[0] != "set-cookie"))


def _length(step: Step, answer: Answer) -> list[str]:
    lengths = answer.all("content-length")
    if len(lengths) > 1:
        return [f"Content-Length: {lengths}"]
    if step.status in (204, 304) or step.type == "text/event-stream":
        return []
    if not lengths:
        return ["Content-Length: missing"]
    if step.method != "HEAD":
        return []  # the wire has held the body against it
    if step.length not in (-1, int(lengths[0])):
        return [f"Content-Length of HEAD: expected {step.length}, got {lengths[0]}"]
    return []


def _row(raw: Mapping[str, Any], row: Row, captured: Captured) -> list[str]:
    return [
        f"{raw['table']}: {column}: expected {value!r}, got {row[column]!r}"
        for column, value in raw.items()
        if column != "table"
        and not (
            matches(value, row[column], captured)
            if isinstance(value, str) and isinstance(row[column], str)
            else _same(value, row[column])
        )
    ]


def _mail(effect: FileEffect, data: bytes, captured: Captured) -> list[str]:
    assert effect.mail is not None
    return mail_differences(effect.path, {key: expand(value, captured) for key, value in effect.mail.items()}, data)


def mail_differences(path: str, expected: Mapping[str, str], data: bytes) -> list[str]:
    """
    Every difference between a mail as written and what it must say.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    body = message.get_body(("plain",))
    actual: dict[str, object] = {
        "from": message["From"] and str(message["From"]),
        "to": message["To"] and str(message["To"]),
        "subject": message["Subject"] and str(message["Subject"]),
        "text": body.get_content().replace("\r\n", "\n") if body is not None else None,
    }
    problems = [
        f"{path}: {key}: expected {_short(value)}, got {_short(str(actual[key]))}"
        for key, value in expected.items()
        if value != actual[key]
    ]
    names = [name.lower() for name in message]
    for name in ("from", "to", "subject", "date", "message-id"):
        if names.count(name) != 1:
            problems.append(f"{path}: {names.count(name)} headers {name}")
    strangers = set(names) - {"from", "to", "subject", "date", "message-id", "mime-version"}
    strangers = {name for name in strangers if not name.startswith("content-")}
    if strangers or message.defects:
        problems.append(f"{path}: headers {sorted(strangers)}, defects {message.defects}")
    return problems


def _request_line(entry: object) -> tuple[object, ...]:
    """
    What is compared of one line of the request log; the line itself where its form is wrong.
    """
    if isinstance(entry, list) and [each[0] for each in entry] == ["at", "method", "path", "status"]:
        at, method, path, status = (each[1] for each in entry)
        if isinstance(at, str) and matches("<time>", at, {}):
            return method, path, status
    return (repr(entry),)


def _same(expected: object, actual: object) -> bool:
    return expected == actual and isinstance(expected, bool) == isinstance(actual, bool)


def _expanded(value: Any, captured: Captured) -> Any:
    return expand(value, captured) if isinstance(value, str) else value


def _pairs(line: str) -> Any:
    """
    A line of JSON with the order of its keys; the text itself where it is none.
    """
    try:
        return json.loads(line, object_pairs_hook=lambda pairs: [list(pair) for pair in pairs])
    except ValueError:
        return line


def _canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


def _compact(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def _short(text: str, limit: int = 600) -> str:
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}… ({len(text)} characters)"
