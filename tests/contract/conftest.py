"""
The running servers that the contract's tests share: one for each target and session.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.contract.postgres import temporary_database
from tests.contract.runner import Runner, Tally
from tests.contract.servers import TARGETS, Target, start
from tests.contract.stores import Database

TALLIES = pytest.StashKey[dict[str, Tally]]()
SETTINGS = {"JOBS_UPLOAD_LIMIT": "1048576", "JOBS_HEARTBEAT": "0.5"}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            target,
            id=target.name,
            marks=[
                *([pytest.mark.servers("postgresql")] if target.store == "postgresql" else []),
                *([pytest.mark.slow] if target.slow else []),
                *([pytest.mark.long] if target.long else []),
            ],
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
        settings = dict(SETTINGS)
        if target.store == "postgresql":
            settings["JOBS_DATABASE"] = url
        server = start(target, folder, settings).listening()
        try:
            database = Database(url)
            tallies = request.config.stash.setdefault(TALLIES, {})
            yield Runner(server.address, folder / "data", database, tallies.setdefault(target.name, Tally()))
            database.close()
            assert server.process.poll() is None, server.last_words()
            # What a bare twistd and a bare uvicorn do: they end by the signal that they were sent.
            stock = {0} if target.through == "owned" else {0, -signal.SIGTERM}
            assert server.stop() in stock, server.last_words()
        finally:
            server.kill()


@pytest.fixture
def target_name(request: pytest.FixtureRequest, runner: Runner) -> str:
    """
    The name of the target that `runner` runs on.
    """
    return str(request.node.callspec.params["runner"].name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """
    How much was compared on each target, so that "no differences" can't mean "nothing was looked at".
    """
    tallies = {name: each for name, each in config.stash.get(TALLIES, {}).items() if each.cases}
    for name, each in tallies.items():
        terminalreporter.write_line(f"contract on {name}: {each}")
    if len(tallies) > 1:
        total = Tally(*(sum(column) for column in zip(*map(attrs.astuple, tallies.values()), strict=True)))
        terminalreporter.write_line(f"contract on {len(tallies)} targets: {total}")
