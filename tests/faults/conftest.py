"""
What the fault tests arrange with: servers that a test may kill and start again on the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.servers import TARGETS, Server, Target, start
from tests.contract.stores import Database


def target(name: str) -> Target:
    return next(each for each in TARGETS if each.name == name)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """
    Starts targets by name, all on the data folder of the test, and kills what is left of them after it; `more` is for
    the policy.
    """
    running: list[Server] = []

    def run(name: str, more: str = "", **settings: str) -> Server:
        folder = tmp_path / f"{name}-{len(running)}"
        folder.mkdir()
        settings = {"JOBS_DATA": str(tmp_path / "data"), **settings}
        server = start(target(name), folder, settings, more=more).listening()
        running.append(server)
        return server

    yield run
    for server in running:
        server.kill()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """
    Opens the database of the test's servers, once one of them has made it.
    """
    opened: list[Database] = []

    def connect() -> Database:
        opened.append(Database(f"sqlite:///{tmp_path / 'data' / 'jobs.db'}"))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()
