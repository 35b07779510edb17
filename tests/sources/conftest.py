"""
Both stacks as real servers, for the ways that the articles show: one server of each for a whole run, since no way needs
more than its own rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.servers import TARGETS, Server, start
from tests.contract.stores import Database
from tests.contract.wire import Answer, ask


@attrs.define
class Stack:
    """
    One server, its data folder, and its database.
    """

    name: str
    server: Server
    data: Path
    stored: Database

    def ask(self, method: str, target: str, body: Any = None, headers: tuple[str, ...] = ()) -> Answer:
        if body is None or isinstance(body, bytes):
            return ask(self.server.address, method, target, headers=headers, body=body)
        kind = ["Content-Type: application/json"]
        return ask(self.server.address, method, target, headers=kind, body=json.dumps(body).encode())

    def post(self, target: str, body: Any = None) -> dict[str, Any]:
        """
        What a request that asks for work is answered.
        """
        answer = self.ask("POST", target, body)
        assert answer.status in (201, 202), (answer, self.server.last_words())
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def upload(self, filename: str, content: bytes) -> dict[str, Any]:
        head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'.encode()
        body = head + content + b"\r\n--b--\r\n"
        answer = self.ask("POST", "/upload", body, headers=("Content-Type: multipart/form-data; boundary=b",))
        assert 202 == answer.status, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def ended(self, task: str) -> dict[str, Any]:
        """
        The row of a task, once it has ended.
        """
        assert self.stored.settle(task, 60.0) in ("SUCCESS", "FAILURE", "CANCELLED"), self.server.last_words()
        [row] = self.stored.query("SELECT * FROM tasks WHERE id = ?", task)
        return row

    def lines(self, log: str, task: str) -> list[dict[str, Any]]:
        """
        What a task has written to one of the logs.
        """
        found = [json.loads(line) for line in (self.data / log).read_text("utf-8").splitlines()]
        return [line for line in found if line.get("task_id") == task]

    def close(self) -> None:
        self.stored.close()
        self.server.kill()


def started(name: str, folder: Path, settings: Mapping[str, str] | None = None) -> Stack:
    """
    A server of one stack alone, on the data below `folder`.
    """
    [target] = [each for each in TARGETS if each.name == name]
    folder.mkdir(exist_ok=True)
    server = start(target, folder, settings or {}).listening()
    data = folder / "data"
    return Stack(name, server, data, Database(f"sqlite:///{data / 'jobs.db'}"))


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Stack]]:
    """
    The one server of each stack.
    """
    running: dict[str, Stack] = {}

    def of(name: str) -> Stack:
        if name not in running:
            running[name] = started(name, tmp_path_factory.mktemp(name))
        return running[name]

    yield of
    for stack in running.values():
        stack.close()


@pytest.fixture(params=["legacy", "modern"])
def stack(request: pytest.FixtureRequest, stacks: Callable[[str], Stack]) -> Stack:
    """
    Each of the two.
    """
    return stacks(request.param)


@pytest.fixture
def legacy(stacks: Callable[[str], Stack]) -> Stack:
    return stacks("legacy")


@pytest.fixture
def modern(stacks: Callable[[str], Stack]) -> Stack:
    return stacks("modern")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """
    Starts servers that a test stops or kills, all on the same data.
    """
    running: list[Stack] = []

    def run(name: str, **settings: str) -> Stack:
        running.append(started(name, tmp_path / "server", settings))
        return running[-1]

    yield run
    for stack in running:
        stack.close()
