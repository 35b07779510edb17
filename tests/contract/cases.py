"""
The contract's cases as values, read from cases.toml.

Whatever the file says is checked here, before any server starts: an unknown key, a step whose answer is not wholly
specified, or a name that nothing captures is an error, so that no case passes because something was not looked at.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.contract.patterns import CaseError, check_names, has_kinds

CASES = Path(__file__).with_name("cases.toml")

# The headers that the contract speaks of. Those that a step does not name must be absent; Content-Type is `type`.
HEADERS = (
    "Accept-Ranges",
    "Allow",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "Location",
    "Refresh",
    "Retry-After",
    "Set-Cookie",
    "WWW-Authenticate",
    "X-Request-Id",
)

_CONTENTS = ("json", "content", "hex", "parts", "chunks")
_BODIES = ("body", "error", "body_of")
_STEP = {"send", "headers", "after", "keep", "status", "type", "gives", "length", *_CONTENTS, *_BODIES}
_EFFECTS = {"tasks", "rows", "files"}
_CASE = {"name", "steps", "given", "jar", *_EFFECTS}

_TASK = {
    "id",
    "name",
    "params",
    "status",
    "attempts",
    "failures",
    "rescues",
    "max_attempts",
    "progress",
    "result",
    "error",
    "after_id",
    "priority",
    "cancel_requested",
    "history",
}

# What is given may also be a row that loops write, or a file.
_REPORTS = {"day", "body", "created_at"}
_FILE = {"file", "holds", "days"}

# Every column, so that a row is always compared whole.
COLUMNS = {
    "users": {"user_id", "email", "email_key", "name", "created_at"},
    "directory": {"user_id", "email", "name", "created_at"},
    "subscriptions": {"email_key", "email", "confirmed_at"},
    "items": {"item_id", "name", "created_at"},
    "uploads": {"upload_id", "filename", "size", "task_id", "created_at"},
    "exports": {"export_id", "format", "task_id", "created_at"},
}

_LOGS = ("notifications.log", "app.log", "admin.log")


@attrs.frozen
class Step:
    """
    One request and the whole of its answer.
    """

    method: str
    target: str
    headers: tuple[str, ...]
    content: str | bytes | None
    chunks: tuple[str, ...] | None
    after: tuple[str, ...]
    keep: bool
    status: int
    type: str
    gives: Mapping[str, str]
    length: int | None  # of HEAD; -1: any
    body: str
    body_of: str | None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@attrs.frozen
class TaskEffect:
    """
    One row of `tasks` after it has settled.
    """

    id: str
    params: str
    result: str | None
    history: tuple[str, ...]
    columns: Mapping[str, Any]  # compared as they are; "*" is left open

    @property
    def ended(self) -> bool:
        return self.columns["status"] in ("SUCCESS", "FAILURE", "CANCELLED")


@attrs.frozen
class FileEffect:
    """
    One line that a log got, or one file that is there now: exactly one of the others says which.
    """

    path: str
    adds: str | None = None
    holds: str | None = None
    export: str | None = None
    mail: Mapping[str, str] | None = None
    gone: bool = False


@attrs.frozen
class Case:
    """
    One story with its effects; `number` is its place in the file.
    """

    name: str
    jar: bool  # whether cookies are kept
    given: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...]
    tasks: tuple[TaskEffect, ...]
    rows: tuple[Mapping[str, Any], ...]
    files: tuple[FileEffect, ...]


def load(path: Path = CASES) -> tuple[Case, ...]:
    """
    All cases of the file, in order; CaseError names the case that is wrong.
    """
    return parse(path.read_text("utf-8"))


def parse(text: str) -> tuple[Case, ...]:
    document = tomllib.loads(text)
    _only("the file", document, {"case", "table"})
    cases = [_guarded(each.get("name"), lambda each=each: _case(each)) for each in document.get("case", [])]
    for table in document.get("table", []):
        _only(f"table {table.get('name')}", table, {"name", "rows"})
        for row in table["rows"]:
            name = f"{table['name']}: {row.get('why')}"
            cases.append(_guarded(name, lambda row=row, name=name: _row(name, row)))
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise CaseError(f"two cases are named {case.name!r}")
        seen.add(case.name)
    return tuple(cases)


def _guarded(name: object, build: Any) -> Case:
    try:
        return build()
    except (CaseError, KeyError, TypeError) as error:
        raise CaseError(f"case {name!r}: {type(error).__name__}: {error}") from error


def _only(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise CaseError(f"{what}: unknown {', '.join(unknown)}")


def _row(name: str, row: Mapping[str, Any]) -> Case:
    effects = {key: value for key, value in row.items() if key in _EFFECTS | {"given"}}
    step = {key: value for key, value in row.items() if key not in effects and key != "why"}
    return _case({"name": name, "steps": [step], **effects})


def _case(raw: Mapping[str, Any]) -> Case:
    _only("the case", raw, _CASE)
    if not raw["steps"]:
        raise CaseError("a case has steps")
    case = Case(
        name=raw["name"],
        jar=raw.get("jar", False),
        given=tuple(_given(each) for each in raw.get("given", [])),
        steps=tuple(_step(each) for each in raw["steps"]),
        tasks=tuple(_task(each) for each in raw.get("tasks", [])),
        rows=tuple(_effect_row(each) for each in raw.get("rows", [])),
        files=tuple(_file(each) for each in raw.get("files", [])),
    )
    _check_names(case)
    return case


def _check_names(case: Case) -> None:
    known: set[str] = set()
    for step in case.steps:
        content = step.content if isinstance(step.content, str) else ""
        for sent in (*step.after, step.target, *step.headers, content, *(step.chunks or ()), step.body_of or ""):
            check_names(sent, known)
            _definite(sent)
        for expected in (*step.gives.values(), step.body):
            known = check_names(expected, known)
    for task in case.tasks:
        for text in (task.id, task.params, task.columns["after_id"] or ""):
            check_names(text, known)
            _definite(text)
        known = check_names(task.result or "", known)
    for row in case.rows:
        for value in row.values():
            known = check_names(value, known) if isinstance(value, str) else known
    for file in case.files:
        for text in (file.path, file.adds or "", file.holds or "", file.export or "", *(file.mail or {}).values()):
            check_names(text, known)
            _definite(text)


def _definite(text: str) -> None:
    if has_kinds(text):
        raise CaseError(f"only what is answered or stored can be of a kind, not {text[:80]!r}")


def _given(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    if "file" in raw:
        if set(raw) != _FILE:
            raise CaseError(f"a given file has {', '.join(sorted(_FILE))}")
    elif raw["table"] != "tasks":
        _only("given", raw, {"table", *{**COLUMNS, "reports": _REPORTS}[raw["table"]]})
    return dict(raw)


def _step(raw: Mapping[str, Any]) -> Step:
    _only("a step", raw, _STEP)
    method, _, target = raw["send"].partition(" ")
    if not re.fullmatch(r"[A-Z]+", method) or not target:
        raise CaseError(f"send = {raw['send']!r} is not METHOD TARGET")
    bodies = [key for key in _BODIES if key in raw]
    if len(bodies) != 1:
        raise CaseError(f"{raw['send']}: exactly one of {', '.join(_BODIES)}")
    contents = [key for key in _CONTENTS if key in raw]
    if len(contents) > 1:
        raise CaseError(f"{raw['send']}: at most one of {', '.join(_CONTENTS)}")
    if not isinstance(raw["status"], int) or not 200 <= raw["status"] <= 599:
        raise CaseError(f"{raw['send']}: status = {raw['status']!r}")
    gives = raw.get("gives", {})
    _only(f"{raw['send']}: gives", gives, set(HEADERS))
    if "*" in [raw.get("type"), *gives.values()] and raw["status"] != 304:
        raise CaseError(f"{raw['send']}: only a 304 may leave a header open")
    if (method == "HEAD") != ("length" in raw):
        raise CaseError(f"{raw['send']}: HEAD, and only HEAD, has a length")
    if method == "HEAD" and raw.get("body") != "":
        raise CaseError(f"{raw['send']}: the body of HEAD is empty")
    headers, content, chunks = _content(raw)
    return Step(
        method=method,
        target=target,
        headers=headers,
        content=content,
        chunks=chunks,
        after=tuple(raw.get("after", ())),
        keep=raw.get("keep", False),
        status=raw["status"],
        type=raw.get("type", "application/json"),
        gives=dict(gives),
        length={"any": -1}.get(raw["length"], raw["length"]) if "length" in raw else None,
        body=raw["body"] if "body" in raw else _error(raw["error"]) if "error" in raw else "",
        body_of=raw.get("body_of"),
    )


def _error(given: Sequence[str]) -> str:
    code, message = given
    return json.dumps({"error": code, "message": message}, ensure_ascii=False, separators=(",", ":"))


def _content(raw: Mapping[str, Any]) -> tuple[tuple[str, ...], str | bytes | None, tuple[str, ...] | None]:
    headers = tuple(raw.get("headers", ()))
    if "json" in raw:
        return (*headers, "Content-Type: application/json"), raw["json"], None
    if "parts" in raw:
        lines = [
            f"--xyzzy\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{data}\r\n"
            for disposition, data in raw["parts"]
        ]
        return (*headers, "Content-Type: multipart/form-data; boundary=xyzzy"), "".join(lines) + "--xyzzy--\r\n", None
    if "hex" in raw:
        return headers, bytes.fromhex(raw["hex"]), None
    if "chunks" in raw:
        return headers, None, tuple(raw["chunks"])
    return headers, raw.get("content"), None


def _task(raw: Mapping[str, Any]) -> TaskEffect:
    _only("a task", raw, _TASK)
    columns = {
        "name": raw["name"],
        "status": raw.get("status", "SUCCESS"),
        "attempts": raw.get("attempts", 1),
        "failures": raw.get("failures", 0),
        "rescues": raw.get("rescues", 0),
        "max_attempts": raw.get("max_attempts", 3),
        "progress": raw.get("progress", 1.0),
        "error": raw.get("error"),
        "after_id": raw.get("after_id"),
        "priority": raw.get("priority", 0),
        "cancel_requested": raw.get("cancel_requested", 0),
        "engine": "table",
        "unique_key": None,
    }
    history = raw.get("history")
    if history is None:
        history = ["PENDING"]
        for attempt in range(columns["attempts"]):
            history += ["RETRY", "RUNNING"] if attempt else ["RUNNING"]
        history.append(columns["status"])
    if columns["status"] == "SUCCESS" and columns["error"] is not None:
        raise CaseError("a task that succeeded has no error")
    if columns["status"] == "FAILURE" and columns["error"] is None:
        raise CaseError("a task that failed has an error")
    return TaskEffect(raw["id"], raw["params"], raw.get("result"), tuple(history), columns)


def _effect_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    expected = {"table", *COLUMNS[raw["table"]]}
    if set(raw) != expected:
        raise CaseError(f"a row of {raw['table']} names {', '.join(sorted(expected))}, and nothing else")
    return dict(raw)


def _file(raw: Mapping[str, Any]) -> FileEffect:
    _only("a file", raw, {"path", "adds", "holds", "export", "mail", "gone"})
    if len(raw) != 2:
        raise CaseError(f"file {raw['path']}: exactly one of adds, holds, export, mail, gone")
    if ("adds" in raw) != (raw["path"] in _LOGS):
        raise CaseError(f"file {raw['path']}: lines are added to {', '.join(_LOGS)}, and only to them")
    if "mail" in raw and set(raw["mail"]) != {"from", "to", "subject", "text"}:
        raise CaseError(f"file {raw['path']}: a mail has from, to, subject and text")
    return FileEffect(**raw)
