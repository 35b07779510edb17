"""
Twisted's own tests of twisted.web pass on our listeners and channels as on its own.

Every test file runs three times, in a process of its own: natively, with every Site that
listens served by a front, and with every protocol that a Site builds being ours, over the
transports in memory that the tests bring.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["web", "websocket", "xmlrpc", "static", "proxy", "cgi", "distrib"]
# What only a channel of Twisted's own in memory can show.
IN_MEMORY = {
    "twisted.web.test.test_web.SiteTest.test_buildProtocol": "looks into the channel's attributes",
    "twisted.web.test.test_websocket.WebSocketTests.test_backpressure": (
        "expects the application's producer on the transport itself; asyncio's face is between them"
    ),
    "twisted.web.test.test_websocket.WebSocketTests.test_connectionRefusedSlow": (
        "looks before the loop has gone round, when headers without a body are still held"
    ),
}
# Their transport is a BytesIO that can't pause anybody.
NO_TRANSPORT = "twisted.web.test.test_web.ConditionalTests."


def run(mode: str) -> dict[str, Any]:
    names = [f"twisted.web.test.test_{name}" for name in MODULES]
    said = subprocess.run(
        [sys.executable, "-m", "tests.web.adapted_suite", mode, *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GIVE_UP": "100"},
        capture_output=True,
        text=True,
    )
    assert "SUITE " in said.stdout, said.stderr[-3000:]
    found: dict[str, Any] = json.loads(said.stdout.rpartition("SUITE ")[2])
    return found


@pytest.fixture(scope="module")
def native() -> set[str]:
    return set(run("native")["passed"])


@pytest.mark.slow
def test_listening(native: set[str]) -> None:
    """
    The same tests pass where Sites listen on the front.
    """
    found = run("listened")

    assert native - set(found["passed"]) == set()


@pytest.mark.slow
def test_built(native: set[str]) -> None:
    """
    The same tests pass on our protocol in memory, but for those that are listed.
    """
    found = run("built")

    lost = native - set(found["passed"])
    assert {name for name in lost if not name.startswith(NO_TRANSPORT)} == set(IN_MEMORY)
