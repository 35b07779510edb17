"""
A hundred faults for the example's modern application: ten classes of ten, each in one route, some of which show only
now and then; and four in the rows of the table that it exports.

A fault of the answer changes what the real handler has answered. A fault of the work changes the application itself:
the task is left out, or submitted twice.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import attrs

from modern_fastapi.services import Services

TASK, TASKS, EXPORT, UPLOAD, REPORT, HELLO, HEALTH = (
    "GET /task/{task_id}", "GET /tasks", "GET /export/{export_id}", "GET /upload/{upload_id}", "GET /report/daily",
    "GET /", "GET /healthz",
)  # fmt: skip
NOTIFY, MAIL, SUBSCRIBE, REGISTER, ITEMS, ITEM, LOG, CLEANUP, PROCESS, COMPUTE, UNSTABLE, CANCEL, NEW_EXPORT = (
    "POST /send-notification/{email}", "POST /send-email", "POST /subscribe", "POST /register", "POST /items",
    "POST /process/{item_id}", "POST /log", "POST /cleanup", "POST /process", "POST /compute", "POST /unstable",
    "DELETE /task/{task_id}", "POST /export",
)  # fmt: skip


@attrs.define
class Reply:
    """
    What a handler has answered.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @document.setter
    def document(self, value: Any) -> None:
        self.body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        self.header(b"content-length", b"%d" % len(self.body))

    def header(self, name: bytes, value: bytes | None) -> None:
        kept = [(n, v) for n, v in self.headers if n.lower() != name]
        self.headers = kept if value is None else [*kept, (name, value)]


Fault = Callable[[Reply], None]


@attrs.frozen
class Mutant:
    """
    One fault in one route.

    @ivar answer: What becomes of an answer.
    @ivar work: What becomes of the application while the fault is in it.
    @ivar slower: How many times as long an answer takes.
    @ivar share: Of the requests, how many show it.
    """

    name: str
    route: str
    answer: Fault | None = None
    work: Callable[[Services], Any] | None = None
    slower: float = 1.0
    share: float = 1.0


@attrs.define(eq=False)
class Mutable:
    """
    An application whose fault can be changed: the layer around it.

    @ivar pace: Seconds that every answer takes longer, so that there is something to be slower than.
    """

    app: Any
    mutant: Mutant | None = None
    pace: float = 0.0
    dice: random.Random = attrs.field(factory=lambda: random.Random(6))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        mutant = self.mutant
        if self.pace:
            # A slow database, as it were.
            await asyncio.sleep(self.pace * (1.0 if mutant is None else mutant.slower))
        if scope["type"] != "http" or mutant is None or mutant.answer is None or self.dice.random() >= mutant.share:
            return await self.app(scope, receive, send)
        reply = Reply(0, [], b"")

        async def changed(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status, reply.headers = message["status"], list(message["headers"])
                return
            reply.body += message.get("body", b"")
            if not message.get("more_body", False):
                assert mutant.answer is not None
                mutant.answer(reply)
                await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
                await send({"type": "http.response.body", "body": reply.body})

        await self.app(scope, receive, changed)


def setting(*path: Any, to: Any) -> Fault:
    """
    Another value at a place of the document, if it is there.
    """

    def fault(reply: Reply) -> None:
        document = at = reply.document
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = to(at[path[-1]]) if callable(to) else to
        except (KeyError, IndexError, TypeError):
            return
        reply.document = document

    return fault


def dropping(*path: Any) -> Fault:
    def fault(reply: Reply) -> None:
        document = at = reply.document
        try:
            for key in path[:-1]:
                at = at[key]
            del at[path[-1]]
        except (KeyError, IndexError, TypeError):
            return
        reply.document = document

    return fault


def reordered(*path: Any) -> Fault:
    def turned(value: Any) -> Any:
        return dict(reversed(value.items())) if isinstance(value, dict) else value[::-1]

    def fault(reply: Reply) -> None:
        if path:
            setting(*path, to=turned)(reply)
        else:
            reply.document = turned(reply.document)

    return fault


def status(old: int, new: int) -> Fault:
    def fault(reply: Reply) -> None:
        if reply.status == old:
            reply.status = new

    return fault


def header(name: bytes, value: bytes | None) -> Fault:
    return lambda reply: reply.header(name, value)


def text(old: bytes, new: bytes) -> Fault:
    def fault(reply: Reply) -> None:
        reply.body = reply.body.replace(old, new)
        reply.header(b"content-length", b"%d" % len(reply.body))

    return fault


def left_out(name: str) -> Callable[[Services], Any]:
    """
    A task that succeeds and does nothing.
    """

    @contextmanager
    def work(services: Services) -> Iterator[None]:
        async def nothing(context: Any, params: Any) -> None:
            return None

        before = services.kinds
        services.kinds = {**before, name: replace(before[name], function=nothing)}
        yield
        services.kinds = before

    return work


def twice(name: str) -> Callable[[Services], Any]:
    """
    A task that is submitted once more than it should be.
    """

    @contextmanager
    def work(services: Services) -> Iterator[None]:
        add = services.rows.add

        async def again(connection: Any, task: Any, engine: str) -> str:
            made: str = await add(connection, task, engine)
            if task.name == name:
                await add(connection, task, engine)
            return made

        services.rows.add = again  # type: ignore[method-assign]
        yield
        services.rows.add = add  # type: ignore[method-assign]

    return work


def rewritten(change: Callable[[list[str]], list[str]]) -> Callable[[Services], Any]:
    """
    An export whose rows are others than the table's; of either form, in their own text.
    """

    @contextmanager
    def work(services: Services) -> Iterator[None]:
        before = services.kinds
        real = before["export.data"]

        async def export(context: Any, params: Any) -> Any:
            result = await real.function(context, params)
            path = services.files.path(f"exports/{params.export_id}.{params.format}")
            text = path.read_bytes().decode()
            if params.format == "csv":
                head, *rows = text.removesuffix("\r\n").split("\r\n")
                text = "\r\n".join([head, *change(rows), ""])
            else:
                text = "[{" + "},{".join(change(text[2:-3].split("},{"))) + "}]\n"
            path.write_bytes(text.encode())
            return result

        services.kinds = {**before, "export.data": replace(real, function=export)}
        yield
        services.kinds = before

    return work


def _named(kind: str, given: Sequence[tuple[str, Any]], **more: Any) -> list[Mutant]:
    made = []
    for number, (route, fault) in enumerate(given):
        name = f"{kind} {number}: {route}"
        made.append(Mutant(name, route, work=fault, **more) if "effect" in kind else Mutant(name, route, fault, **more))
    return made


def mutants() -> list[Mutant]:
    """
    All of them.
    """
    changed: list[tuple[str, Fault]] = [
        (HELLO, text(b"world", b"World")), (TASK, setting("status", to="DONE")),
        (TASKS, setting("tasks", 0, "name", to="x")),
        (EXPORT, text(b"SUCCESS", b"SUCCEED")), (UPLOAD, text(b"LINE", b"line")), (REPORT, setting("users", to=7)),
        (NOTIFY, setting("message", to="queued")), (REGISTER, setting("name", to=str.upper)),
        (CLEANUP, setting("days", to=lambda days: days + 1)), (ITEM, setting("item_id", to="i")),
    ]  # fmt: skip
    null: list[tuple[str, Fault]] = [
        (TASK, dropping("result")), (TASK, dropping("error")), (TASKS, dropping("tasks", 0, "result")),
        (TASKS, dropping("next")), (TASKS, dropping("tasks", 1, "error")), (ITEM, setting("query", to=None)),
        (REPORT, setting("users", to=None)), (MAIL, setting("email", to=None)), (ITEMS, setting("name", to=None)),
        (LOG, setting("message", to=None)),
    ]  # fmt: skip
    numbers: list[tuple[str, Fault]] = [
        (TASK, setting("attempts", to=float)), (TASK, setting("progress", to=int)), (TASK, setting("attempts", to=str)),
        (TASKS, setting("tasks", 0, "attempts", to=float)), (TASKS, setting("tasks", 1, "progress", to=int)),
        (CLEANUP, setting("days", to=float)), (CLEANUP, setting("days", to=str)), (REPORT, setting("users", to=float)),
        (REPORT, setting("tasks", "SUCCESS", to=str)), (TASKS, setting("tasks", 2, "progress", to=str)),
    ]  # fmt: skip
    statuses: list[tuple[str, Fault]] = [
        (HELLO, status(200, 203)), (TASK, status(404, 400)), (TASK, status(200, 206)), (EXPORT, status(404, 410)),
        (UPLOAD, status(200, 201)), (LOG, status(202, 200)), (REGISTER, status(409, 400)), (ITEMS, status(201, 200)),
        (MAIL, status(400, 422)), (CANCEL, status(202, 204)),
    ]  # fmt: skip
    headers: list[tuple[str, Fault]] = [
        (HELLO, header(b"content-type", b"text/plain; charset=utf-8")), (TASK, header(b"content-type", None)),
        (TASKS, header(b"content-type", b"application/json; charset=latin-1")),
        (EXPORT, header(b"content-disposition", None)),
        (EXPORT, header(b"etag", b'"x"')), (UPLOAD, header(b"accept-ranges", None)),
        (HEALTH, header(b"cache-control", None)),
        (HEALTH, header(b"cache-control", b"max-age=60")), (LOG, header(b"location", b"/task")),
        (REGISTER, header(b"set-cookie", b"sid=1; Path=/")),
    ]  # fmt: skip
    orders: list[tuple[str, Fault]] = [
        (TASK, reordered()), (TASKS, reordered("tasks")), (TASKS, reordered("tasks", 0)), (TASKS, reordered()),
        (REPORT, reordered()), (REGISTER, reordered()), (REGISTER, reordered("task_ids")), (ITEMS, reordered()),
        (NOTIFY, reordered()), (CLEANUP, reordered()),
    ]  # fmt: skip
    lost: list[tuple[str, Any]] = [
        (NOTIFY, left_out("notification.write")), (LOG, left_out("log.write")), (ITEMS, left_out("log.write")),
        (ITEM, left_out("log.write")), (SUBSCRIBE, left_out("subscription.confirm")), (MAIL, left_out("email.send")),
        (REGISTER, left_out("email.welcome")), (REGISTER, left_out("directory.create")),
        (REGISTER, left_out("admin.notify")), (NEW_EXPORT, left_out("export.data")),
    ]  # fmt: skip
    doubled: list[tuple[str, Any]] = [
        (NOTIFY, twice("notification.write")), (LOG, twice("log.write")), (ITEMS, twice("log.write")),
        (SUBSCRIBE, twice("subscription.confirm")), (MAIL, twice("email.send")), (REGISTER, twice("email.welcome")),
        (REGISTER, twice("admin.notify")), (PROCESS, twice("data.process")), (UNSTABLE, twice("api.unstable")),
        (NEW_EXPORT, twice("export.data")),
    ]  # fmt: skip
    tables: list[tuple[str, Any]] = [
        (NEW_EXPORT, rewritten(lambda rows: rows[:-1])), (NEW_EXPORT, rewritten(lambda rows: [*rows, rows[-1]])),
        (NEW_EXPORT, rewritten(lambda rows: [rows[0].replace("log.write", "log.wrote"), *rows[1:]])),
        (NEW_EXPORT, rewritten(lambda rows: [*rows[:-2], rows[-1], rows[-2]])),
    ]  # fmt: skip
    slow = [
        Mutant(f"slow {number}: {route}", route, slower=times)
        for number, (route, times) in enumerate(
            [(HELLO, 2.0), (TASK, 2.0), (TASKS, 2.0), (EXPORT, 2.0), (UPLOAD, 2.2), (REPORT, 2.5), (HEALTH, 3.0),
             (HELLO, 4.0), (TASK, 5.0), (LOG, 5.0)]
        )
    ]  # fmt: skip
    rare = _named(
        "rare",
        [
            *changed[:3],
            null[0],
            numbers[0],
            numbers[7],
            statuses[0],
            (TASKS, reordered("tasks")),
            changed[6],
            statuses[5],
        ],
        share=0.02,
    )
    return [
        *_named("changed", changed), *_named("null", null), *_named("number", numbers), *_named("status", statuses),
        *_named("header", headers), *_named("order", orders), *_named("lost effect", lost),
        *_named("doubled effect", doubled), *slow, *rare, *_named("table effect", tables),
    ]  # fmt: skip


Ask = Callable[[int, Mapping[str, Any]], tuple[str, str, bytes | None]]


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _waiting(n: int, known: Mapping[str, Any]) -> str:
    # Every third waits and can be cancelled; the others have ended.
    found: str = known["waiting"].pop() if n % 3 == 0 and known["waiting"] else known["tasks"][n % len(known["tasks"])]
    return found


ASKS: Mapping[str, Ask] = {
    HELLO: lambda n, known: ("GET", "/", None),
    HEALTH: lambda n, known: ("GET", "/healthz", None),
    TASK: lambda n, known: ("GET", f"/task/{known['tasks'][n % len(known['tasks'])]}", None),
    TASKS: lambda n, known: ("GET", f"/tasks?limit={3 + n % 3}", None),
    EXPORT: lambda n, known: ("GET", f"/export/{known['exports'][n % len(known['exports'])]}", None),
    UPLOAD: lambda n, known: ("GET", f"/upload/{known['uploads'][0]}", None),
    REPORT: lambda n, known: ("GET", "/report/daily", None),
    NOTIFY: lambda n, known: ("POST", f"/send-notification/a{n}@example.org?message=m{n}", None),
    MAIL: lambda n, known: (
        "POST", "/send-email", _json({"email": f"a{n}@example.org" if n % 3 else "nobody", "subject": "s", "body": "b"})
    ),
    SUBSCRIBE: lambda n, known: ("POST", "/subscribe", _json({"email": f"s{n}@example.org"})),
    REGISTER: lambda n, known: (
        "POST", "/register", _json({"email": f"{known['run']}-{n - n % 2}@example.org", "name": f"name {n}"})
    ),
    ITEMS: lambda n, known: ("POST", f"/items?name=item-{n}", None),
    ITEM: lambda n, known: ("POST", f"/process/i{n}?q=q{n}", None),
    LOG: lambda n, known: ("POST", f"/log?message=m{n}", None),
    CLEANUP: lambda n, known: ("POST", f"/cleanup?days={n % 9 + 7}", None),
    PROCESS: lambda n, known: ("POST", "/process", _json({"n": n})),
    COMPUTE: lambda n, known: ("POST", "/compute", _json({"n": n})),
    UNSTABLE: lambda n, known: ("POST", "/unstable", _json({"failures": 0})),
    CANCEL: lambda n, known: ("DELETE", f"/task/{_waiting(n, known)}", None),
    NEW_EXPORT: lambda n, known: ("POST", f"/export?format={('json', 'csv')[n % 2]}", None),
}  # fmt: skip
