"""
What servers decide and the contract does not: how each target treats odd HTTP, as a table that is held to.

declared.toml has one entry for each odd request. `everywhere` says what all targets answer; otherwise each target has a
word of its own. A difference that is not in the table fails, and so does one that is there and is gone.
"""

from __future__ import annotations

import re
import socket
import tomllib
from pathlib import Path

import pytest

from tests.contract.runner import Runner
from tests.contract.servers import TARGETS
from tests.contract.wire import ask

TABLE = tomllib.loads(Path(__file__).with_name("declared.toml").read_text("utf-8"))
# The store behind a server changes nothing of how it reads a request.
ON_SQLITE = [target for target in TARGETS if target.store == "sqlite"]
each_front = pytest.mark.parametrize(
    "runner",
    [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.slow else []) for each in ON_SQLITE],
    indirect=True,
    scope="session",
)


def outcome(address: tuple[str, int], raw: bytes, patience: float) -> str:
    """
    The statuses that come back for `raw`, in order; without any, whether the server "closed" or, after so many seconds,
    still "waits".
    """
    answer, end = b"", "closed"
    with socket.create_connection(address, timeout=patience) as connection:
        connection.sendall(raw)
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        except TimeoutError:
            end = "waits"
    statuses = re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)
    return " ".join(status.decode() for status in statuses) or end


def test_the_table_is_whole() -> None:
    """
    Each entry says what is sent, why servers differ, and what every target does.
    """
    for name, entry in TABLE.items():
        assert {"send", "why"} <= set(entry), name
        said = set(entry) - {"send", "why"}
        assert said == {"everywhere"} or said == {target.name for target in ON_SQLITE}, name


@each_front
@pytest.mark.parametrize("name", TABLE)
def test_odd_http_is_treated_as_declared(runner: Runner, target_name: str, name: str) -> None:
    """
    What a target does with one odd request is what the table says of it.
    """
    entry = TABLE[name]

    expected = entry.get("everywhere", entry.get(target_name))

    # Silence is heard sooner than an answer that is late.
    actual = outcome(runner.address, entry["send"].encode("latin-1"), 2.0 if expected == "waits" else 20.0)
    runner.forget()

    assert expected == actual


@each_front
def test_a_date_and_a_server_come_once(runner: Runner, target_name: str) -> None:
    """
    Where two layers would each add theirs, one of them does: uvicorn's default headers are off under bgserver.

    Attached, uvicorn is started by somebody else, who may say --no-date-header and --no-server-header: without them its
    two stand beside legacy's.
    """
    answer = ask(runner.address, "GET", "/")
    runner.forget()

    most = 2 if target_name == "attached-legacy" else 1
    assert most == len(answer.all("date"))
    assert most >= len(answer.all("server"))
