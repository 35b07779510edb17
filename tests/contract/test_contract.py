"""
Every case of cases.toml, on every target: each application alone, and each through bgserver in both ownership modes.

The servers are real processes behind real sockets, one for each target, started when its first case comes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.cases import Case, load
from tests.contract.postgres import temporary_database
from tests.contract.runner import Runner
from tests.contract.servers import TARGETS, Target, start
from tests.contract.stores import Database

CASES = load()


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            target,
            id=target.name,
            marks=[pytest.mark.servers("postgresql")] if target.store == "postgresql" else [],
        )
        for target in TARGETS
    ],
)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """
    A running server of one target with a fresh data folder; it must still run at the end, and stop when it is told.
    """
    target: Target = request.param
    folder: Path = tmp_path_factory.mktemp(target.name)
    with temporary_database(target.store, folder) as url:
        settings = {"JOBS_UPLOAD_LIMIT": "1048576"}
        if target.store == "postgresql":
            settings["JOBS_DATABASE"] = url
        server = start(target, folder, settings).listening()
        try:
            database = Database(url)
            yield Runner(server.address, folder / "data", database)
            database.close()
            assert server.process.poll() is None, server.last_words()
            # What a bare twistd and a bare uvicorn do: they end by the signal that they were sent.
            stock = {0} if target.through == "owned" else {0, -signal.SIGTERM}
            assert server.stop() in stock, server.last_words()
        finally:
            server.kill()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_contract(runner: Runner, case: Case) -> None:
    """
    What the case promises holds: every status, body, header and effect, and nothing besides.
    """
    problems = runner.run(case)

    assert not problems, "\n".join(problems)
