"""
Runs pieces of Python in processes of their own: a reactor is installed once and for all.

What a trap's test checks on our reactor, it also runs on the stock one, and asserts that it
fails there: L{on_stock}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[2]

BRIDGE = "import bridge.loop as _b; _b.install({loop!r})\n"
STOCK = "import asyncio, twisted.internet.asyncioreactor as _a; _a.install(asyncio.SelectorEventLoop())\n"
STOCK_UVLOOP = "import uvloop, twisted.internet.asyncioreactor as _a; _a.install(uvloop.new_event_loop())\n"

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@attrs.frozen
class Ran:
    """
    How a piece ended; C{status} is None where it had to be killed.
    """

    status: int | None
    out: str
    err: str

    @property
    def passed(self) -> bool:
        return self.status == 0


def run(code: str, *args: str, timeout: float = 30, env: dict[str, str] | None = None) -> Ran:
    """
    Run the code; it fails by raising.
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *args]
    return finish(command, timeout, env)


def finish(command: list[str], timeout: float = 30, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Ran:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'twistd_plugin'}"} | (env or {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environ, cwd=cwd)
    except subprocess.TimeoutExpired as exc:
        return Ran(None, _text(exc.stdout), _text(exc.stderr))
    return Ran(done.returncode, done.stdout, done.stderr)


def on_bridge(code: str, loop: str, timeout: float = 30) -> Ran:
    """
    Run the code with our reactor installed.
    """
    return run(BRIDGE.format(loop=loop) + textwrap.dedent(code), timeout=timeout)


def on_stock(code: str, loop: str = "asyncio", timeout: float = 30) -> Ran:
    """
    Run the code with Twisted's own asyncio reactor installed.
    """
    return run((STOCK if loop == "asyncio" else STOCK_UVLOOP) + textwrap.dedent(code), timeout=timeout)


def suite(kind: str, *names: str, timeout: float) -> dict[str, Any] | None:
    """
    What came of Twisted's own tests on that reactor; None where they didn't end in time.
    """
    command = [sys.executable, "-W", "ignore", "-m", "tests.loop.twisted_suite", kind, *names]
    with tempfile.TemporaryDirectory() as folder:
        # trial's tests write where they run.
        ran = finish(command, timeout, cwd=Path(folder))
    if ran.status is None:
        return None
    assert ran.passed, ran.err
    found: dict[str, Any] = json.loads(ran.out.splitlines()[-1])
    return found


def _text(data: bytes | str | None) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data or ""
