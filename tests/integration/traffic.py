"""
Traffic for the example: every route that may move by itself, as clients would use it, written down so that each run
asks the same in the same order.

A `Replay` is one client on one kept connection. It remembers what it was answered, so that later requests can name it.
"""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs

JSON = {"Content-Type": "application/json"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
FORM = (
    b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: text/plain\r\n\r\n%s\r\n--X--\r\n"
)


@attrs.define
class Known:
    """
    Ids that answers gave.

    @ivar planted: Tasks that wait, and can be cancelled.
    """

    planted: list[str]
    tasks: list[str] = attrs.field(factory=list)
    uploads: list[str] = attrs.field(factory=list)
    exports: list[str] = attrs.field(factory=list)
    cancelled: list[str] = attrs.field(factory=list)


@attrs.define
class Replay:
    """
    One client; each request comes from another person, as a canary sees it.
    """

    address: tuple[str, int]
    known: Known
    dice: random.Random
    answers: Counter[tuple[str, int]] = attrs.field(factory=Counter)
    _connection: http.client.HTTPConnection | None = None

    def ask(
        self, route: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, events: int = 0
    ) -> tuple[int, bytes]:
        """
        One request, counted by its route and status; of a stream the first `events` events.
        """
        method = route.partition(" ")[0]
        if self._connection is None:
            self._connection = http.client.HTTPConnection(*self.address, timeout=30)
        person = {"X-Client-Id": f"person-{self.dice.randrange(1000)}"}
        self._connection.request(method, path, body, {**person, **(headers or {})})
        answer = self._connection.getresponse()
        if events:
            text = b""
            while text.count(b"\n\n") < events and (line := answer.readline()):
                text += line
            self.close()
        else:
            text = answer.read()
        self.answers[route, answer.status] += 1
        return answer.status, text

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, route: str, path: str, document: object = None) -> dict[str, object]:
        body = b"" if document is None else json.dumps(document).encode()
        found: dict[str, object] = json.loads(self.ask(route, path, body, {} if document is None else JSON)[1])
        made = found.get("task_ids") or [found.get("task_id")]
        assert isinstance(made, list)
        self.known.tasks.extend(str(each) for each in made if each)
        return found


Step = Callable[[Replay, int], object]


def _register(r: Replay, n: int) -> object:
    # Every third one is known already.
    email = f"u{n - 1 if n % 3 == 2 else n}@example.org"
    return r.post("POST /register", "/register", {"email": email, "name": f"Name {n}"})


def _upload(r: Replay, n: int) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    text = FORM % f"line one of {n}\nline two\n".encode()
    status, answer = r.ask("POST /upload", "/upload", text if n % 5 else text[:-9], headers)
    if status == 202:
        r.known.uploads.append(json.loads(answer)["upload_id"])


def _export(r: Replay, n: int) -> None:
    found = r.post("POST /export", f"/export?format={('csv', 'json', 'xml')[n % 3]}")
    if "export_id" in found:
        r.known.exports.append(str(found["export_id"]))


def _cancel(r: Replay, n: int) -> None:
    known = r.known
    if n % 3 == 0 and known.planted:
        known.cancelled.append(known.planted.pop())
        task = known.cancelled[-1]
    else:
        task = r.dice.choice(known.cancelled) if n % 3 == 1 and known.cancelled else UNKNOWN
    r.ask("DELETE /task/{task_id}", f"/task/{task}")


# One step for each route that writes.
WRITES: Sequence[Step] = (
    lambda r, n: r.post(
        "POST /send-notification/{email}", f"/send-notification/a{n}@example.org?message=m{n}" if n % 4 else
        "/send-notification/nobody?message=m"
    ),
    lambda r, n: r.post(
        "POST /send-email", "/send-email", {"email": f"e{n}@example.org", "subject": f"s{n}", "body": f"b{n}"}
    ),
    lambda r, n: r.post("POST /subscribe", "/subscribe", {"email": f"s{n % 7}@example.org"}),
    _register,
    lambda r, n: r.post("POST /items", f"/items?name=item-{n}"),
    lambda r, n: r.post("POST /process/{item_id}", f"/process/i{n}" + (f"?q=q{n}" if n % 2 else "")),
    lambda r, n: r.post("POST /log", f"/log?message=m{n}" if n % 5 else "/log"),
    _upload,
    _export,
    lambda r, n: r.post("POST /cleanup", f"/cleanup?days={7 if n % 4 else -1}"),
    lambda r, n: r.post("POST /process", "/process", {"a": n, "b": [1, None, {"c": 1.5}]} if n % 4 else [n]),
    lambda r, n: r.post("POST /compute", "/compute", {"n": 100 + n}),
    lambda r, n: r.post("POST /unstable", "/unstable", {"failures": (0, 1, 0, 2, 0, 3)[n % 6]}),
    _cancel,
)  # fmt: skip


def _one_of(r: Replay, ids: Sequence[str], n: int) -> str:
    # The latest may still be at work: what changes between two looks is noise, and must be known as such.
    return UNKNOWN if n % 4 == 3 or not ids else ids[-1] if n % 4 == 2 else r.dice.choice(ids)


# And one for each that reads.
READS: Sequence[Step] = (
    lambda r, n: r.ask("GET /", "/"),
    lambda r, n: r.ask("GET /healthz", "/healthz"),
    lambda r, n: r.ask("GET /upload/{upload_id}", f"/upload/{_one_of(r, r.known.uploads, n)}"),
    lambda r, n: r.ask("GET /export/{export_id}", f"/export/{_one_of(r, r.known.exports, n)}"),
    lambda r, n: r.ask("GET /task/{task_id}", f"/task/{_one_of(r, r.known.tasks, n)}"),
    lambda r, n: r.ask(
        "GET /tasks", ("/tasks?limit=5", "/tasks?status=SUCCESS&limit=3", "/tasks?name=log.write&limit=2",
                       "/tasks?limit=x", f"/tasks?after={UNKNOWN}")[n % 5]
    ),
    lambda r, n: r.ask("GET /report/daily", "/report/daily"),
    lambda r, n: r.ask("GET /events", "/events", headers={"Last-Event-ID": "0"}, events=3),
)  # fmt: skip


def steps(kinds: Sequence[Step], r: Replay) -> Iterator[Callable[[], object]]:
    """
    Round after round, without end.
    """
    n = 0
    while True:
        for kind in kinds:
            yield lambda kind=kind, n=n: kind(r, n)  # type: ignore[misc]
        n += 1
