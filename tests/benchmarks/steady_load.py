"""
Puts a mixed load on one server for minutes and watches what it holds meanwhile: memory, descriptors, threads, child
processes, unfinished files, and tasks in limbo. All of it must be flat.

Run it: python -m tests.benchmarks.steady_load [TARGET...] [--minutes N] [--json]

Targets are those of the contract (legacy, modern, owned-legacy, owned-modern, attached-legacy, ...); without any,
each side alone and through bgserver. A third of the time is warm-up: pools fill, caches find their size. What is
compared after it are the medians of the two halves of the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tests.contract.postgres import temporary_database
from tests.contract.servers import TARGETS, Server, start
from tests.contract.stores import Database
from tests.contract.streams import Stream
from tests.contract.wire import Connection, WireError, ask, request_bytes

DEFAULT = ("legacy", "modern", "owned-legacy", "owned-modern")
JSON = ["Content-Type: application/json"]
MULTIPART = "Content-Type: multipart/form-data; boundary=X"
HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
TAIL = b"\r\n--X--\r\n"
FILE = HEAD + b"some words on a line\n" * 5000 + TAIL  # 100 KiB
MEBIBYTE = 1024 * 1024

# What may change by itself between the halves: pools breathe, and fill late on a busy machine, and allocators keep what
# they got. A thread that each of thousands of requests left behind would be far more.
MAY_GROW = {"resident": 12 * MEBIBYTE, "descriptors": 8, "threads": 10, "children": 1, "unfinished": 4, "limbo": 0}
LIMBO_AFTER = 20.0  # seconds that a task of this load may take, with its retries


@attrs.frozen
class Sample:
    """
    What a server held at one moment; `resident` in bytes, and without its children.
    """

    at: float
    resident: int
    descriptors: int
    threads: int
    children: int
    unfinished: int
    limbo: int


@attrs.define
class Client:
    """
    One client of the load: whatever a client may do, in a random order that its seed gives.
    """

    server: Server
    dice: random.Random
    stopping: threading.Event
    pause: float
    answers: Counter[str] = attrs.Factory(Counter)
    _tasks: list[str] = attrs.Factory(list)
    _uploads: list[str] = attrs.Factory(list)
    _exports: list[str] = attrs.Factory(list)

    def run(self) -> None:
        acts: Sequence[tuple[Callable[[], None], int]] = (
            (self.read, 30),
            (self.post, 40),
            (self.kept, 8),
            (self.upload, 8),
            (self.download, 10),
            (self.leave_an_upload, 4),
            (self.listen, 4),
            (self.visit, 4),
            (self.be_wrong, 8),
            (self.cancel, 4),
            (self.export, 1),
            (self.clean, 1),
        )
        calls, weights = zip(*acts, strict=True)
        while not self.stopping.is_set():
            [act] = self.dice.choices(calls, weights)
            try:
                act()
            except (OSError, WireError) as error:
                self.answers[type(error).__name__] += 1
            self.stopping.wait(self.pause)

    def ask(self, method: str, target: str, **parts: object) -> dict[str, object]:
        answer = ask(self.server.address, method, target, **parts)  # type: ignore[arg-type]
        self.answers[str(answer.status)] += 1
        found: dict[str, object] = {}
        with contextlib.suppress(ValueError):
            found = json.loads(answer.body)
        if answer.status == 202 and "task_id" in found:
            self._remember(self._tasks, found["task_id"])
        return found

    def _remember(self, names: list[str], name: object) -> None:
        names.append(str(name))
        del names[:-50]

    def read(self) -> None:
        known = self.dice.choice(self._tasks) if self._tasks else "x"
        paths = ("/", "/healthz", "/tasks?limit=20", f"/task/{known}", "/report/daily", "/openapi.json")
        self.ask(self.dice.choice(("GET", "GET", "GET", "HEAD", "OPTIONS")), self.dice.choice(paths))

    def post(self) -> None:
        word = self.dice.randrange(10**9)
        method, target, body = self.dice.choice(
            (
                ("POST", f"/log?message={word}", None),
                ("POST", f"/send-notification/a{word}@example.org?message=m", None),
                ("POST", "/send-email", {"email": "a@example.org", "subject": "s", "body": "b" * 200}),
                ("POST", "/subscribe", {"email": f"a{word % 100}@example.org"}),
                ("POST", "/register", {"email": f"a{word}@example.org", "name": "A"}),
                ("POST", f"/items?name=i{word}", None),
                ("POST", f"/process/i{word}?q=a", None),
                ("POST", "/process", {"a": [word, {"b": None}]}),
                ("POST", "/compute", {"n": 20_000}),
                ("POST", "/unstable", {"failures": self.dice.randrange(3)}),
            )
        )
        self.ask(method, target, **({} if body is None else {"headers": JSON, "body": json.dumps(body).encode()}))

    def kept(self) -> None:
        connection = Connection(self.server.address)
        try:
            for _ in range(10):
                answer = connection.exchange(request_bytes("GET", "/tasks?limit=3", "x", keep=True), "GET", keep=True)
                self.answers[str(answer.status)] += 1
        finally:
            connection.close()

    def upload(self) -> None:
        found = self.ask("POST", "/upload", headers=[MULTIPART], body=FILE)
        self._remember(self._uploads, found.get("upload_id", "x"))

    def download(self) -> None:
        folder, names = self.dice.choice((("upload", self._uploads), ("export", self._exports)))
        if names:
            span = [f"Range: bytes={self.dice.randrange(100)}-{self.dice.randrange(100, 60_000)}"]
            self.ask("GET", f"/{folder}/{self.dice.choice(names)}", headers=span if self.dice.random() < 0.5 else [])

    def leave_an_upload(self) -> None:
        whole = request_bytes("POST", "/upload", "x", [MULTIPART], FILE)
        connection = Connection(self.server.address)
        connection._socket.sendall(whole[: self.dice.randrange(1, len(whole))])
        connection.close()

    def listen(self) -> None:
        stream = Stream.open(self.server.address, *self.dice.choice(([], ["Last-Event-ID: 0"])))
        try:
            for _ in range(self.dice.randrange(5)):
                stream.block(2)
        except AssertionError:
            pass  # nothing happened for so long
        finally:
            stream.close()

    def visit(self) -> None:
        answer = ask(self.server.address, "POST", "/login", headers=JSON, body=b'{"name":"A"}')
        cookies = [f"Cookie: {value.partition(';')[0]}" for value in answer.all("set-cookie")]
        self.ask("GET", "/me", headers=cookies)
        self.ask("POST", "/logout", headers=cookies)

    def be_wrong(self) -> None:
        method, target, body = self.dice.choice(
            (
                ("GET", "/nothing", b""),
                ("PUT", "/log", b""),
                ("POST", "/register", b'{"email":1}'),
                ("POST", "/process", b"[" * 5000),
                ("POST", "/compute", b'{"n":63.0}'),
                ("POST", "/send-email", b"x" * (MEBIBYTE + 1)),
                ("GET", "/tasks?limit=0", b""),
                ("GET", "/events", b""),
            )
        )
        headers = JSON if body else ["Last-Event-ID: x"]
        self.ask(method, target, headers=headers, body=body or None)

    def cancel(self) -> None:
        if self._tasks:
            self.ask("DELETE", f"/task/{self._tasks[-1]}")

    def export(self) -> None:
        found = self.ask("POST", f"/export?format={self.dice.choice(('csv', 'json'))}")
        self._remember(self._exports, found.get("export_id", "x"))

    def clean(self) -> None:
        self.ask("POST", "/cleanup?days=0")


def sample(server: Server, data: Path, stored: Database, at: float) -> Sample:
    """
    What the server holds now.
    """
    folder = Path(f"/proc/{server.process.pid}")
    status = (folder / "status").read_text()
    figures = {name: int(value) for name, value in re.findall(r"(VmRSS|Threads):\s+([0-9]+)", status)}
    # Both pools of database connections grow with the load and shrink by themselves.
    links = [_link(each) for each in (folder / "fd").iterdir()]
    old = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - LIMBO_AFTER))
    limbo = "SELECT COUNT(*) AS n FROM tasks WHERE status IN ('PENDING', 'RUNNING', 'RETRY') AND created_at < ?"
    return Sample(
        at,
        figures["VmRSS"] * 1024,
        len([link for link in links if "jobs.db" not in link]),
        figures["Threads"],
        sum(1 for thread in (folder / "task").iterdir() for _ in _children(thread)),
        len(list((data / "uploads").glob("*.part"))),
        int(stored.query(limbo, old)[0]["n"]),
    )


def _link(descriptor: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return os.readlink(descriptor)
    return ""


def _children(thread: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return (thread / "children").read_text().split()
    return []


def load(name: str, seconds: float, folder: Path, clients: int = 4) -> tuple[list[Sample], Counter[str]]:
    """
    A sample each second, or fifty at least, and how many answers of each status there were.
    """
    target = next(each for each in TARGETS if each.name == name)
    stopping = threading.Event()
    with temporary_database(target.store, folder) as url:
        settings = {"JOBS_HEARTBEAT": "1", **({"JOBS_DATABASE": url} if target.store == "postgresql" else {})}
        server = start(target, folder, settings).listening()
        stored = Database(url)
        crowd = [Client(server, random.Random(number), stopping, 0.01) for number in range(clients)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in crowd]
        samples: list[Sample] = []
        begun = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            while (at := time.monotonic() - begun) < seconds:
                samples.append(sample(server, folder / "data", stored, at))
                stopping.wait(min(1.0, seconds / 50))
            stopping.set()
            for thread in threads:
                thread.join(30)
            waiting = time.monotonic() + LIMBO_AFTER
            left = "SELECT COUNT(*) AS n FROM tasks WHERE status IN ('PENDING', 'RUNNING', 'RETRY')"
            while stored.query(left)[0]["n"] and time.monotonic() < waiting:
                time.sleep(0.1)
            assert 0 == stored.query(left)[0]["n"], "tasks are in limbo"
            assert server.process.poll() is None, server.last_words()
        finally:
            stopping.set()
            stored.close()
            server.kill()
    return samples, sum((client.answers for client in crowd), Counter())


def growth(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """
    For each figure its median in the two halves after the warm-up.
    """
    after = samples[len(samples) // 3 :]
    first, second = after[: len(after) // 2], after[len(after) // 2 :]
    return {
        name: tuple(statistics.median(getattr(each, name) for each in half) for half in (first, second))  # type: ignore[misc]
        for name in MAY_GROW
    }


def grown(figures: dict[str, tuple[float, float]]) -> list[str]:
    """
    The figures that grew by more than they may.
    """
    return [name for name, (before, after) in figures.items() if after - before > MAY_GROW[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else "")
    parser.add_argument("targets", nargs="*", default=DEFAULT, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load for each target (default 10)")
    parser.add_argument("--json", action="store_true", help="print every sample for programs")
    given = parser.parse_args()
    bad = []
    for name in given.targets:
        with tempfile.TemporaryDirectory() as folder:
            samples, answers = load(name, given.minutes * 60, Path(folder))
        figures = growth(samples)
        bad += [f"{name}: {figure}" for figure in grown(figures)]
        if given.json:
            print(json.dumps({"target": name, "samples": [attrs.asdict(each) for each in samples], **answers}))
            continue
        print(f"{name}: {sum(answers.values())} answers ({', '.join(f'{n} of {s}' for s, n in answers.most_common())})")
        for figure, (before, after) in figures.items():
            unit = MEBIBYTE if figure == "resident" else 1
            word = "resident MiB" if figure == "resident" else figure
            print(f"  {word}: {before / unit:.1f}, then {after / unit:.1f}")
    print("grown: " + ", ".join(bad) if bad else "nothing has grown")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
