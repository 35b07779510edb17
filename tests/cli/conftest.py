"""
A folder with a policy, bgctl in it, and a server that it can ask.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs
import pytest
import uvicorn

from bridge.admin.api import create_admin
from bridge.cli.command import run
from bridge.compose.control import ServerControl
from bridge.compose.stages import Stages
from bridge.policy import read_policy
from bridge.routing import Cell
from bridge.state import StateThread, Store

if TYPE_CHECKING:
    from bridge.compose.evidence import Evidence

POLICY = """
state = "sqlite:///state.db"
admin = "ADMIN"
[legacy]
app = "a:b"
[modern]
app = "c:d"
[[route]]
match = "GET /export/{export_id}"
canary = { weight = 5 }
[[route]]
match = "POST /log"
[[loop]]
name = "consumer"
legacy = "service:consumer"
modern = "consumer"
"""


@attrs.frozen
class Said:
    """
    What one command line came to.
    """

    status: int
    out: str
    err: str


Bgctl = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    The current folder, with a policy whose admin listener is off.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("BGSERVER_FORCE_LEGACY", "BGSERVER_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bgserver.toml").write_text(POLICY.replace("ADMIN", "off"))
    return tmp_path


@pytest.fixture
def bgctl(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bgctl:
    """
    Run one command line in that folder.
    """
    monkeypatch.setenv("COLUMNS", "200")

    def carried_out(*words: str) -> Said:
        capsys.readouterr()
        try:
            status = run(words)
        except SystemExit as stop:
            status = int(str(stop.code))
        captured = capsys.readouterr()
        return Said(status, captured.out, captured.err)

    return carried_out


class Unjudged:
    """
    What the control asks of a process's evidence: the policy's own gate on the counts alone.
    """

    rule = None

    def __init__(self) -> None:
        self.seat = self

    def back(self, route: str, stage: object, why: str, evidence: str) -> None:
        """
        Who writes it later is not the command's business.
        """

    def identity(self, route: str) -> str | None:
        return None

    def health(self) -> dict[str, object]:
        return {"problem": None, "lost": 0}


class Serving:
    """
    One server's admin listener, on a thread of its own.
    """

    def __init__(self, folder: Path, token: str | None = None, unix: Path | None = None) -> None:
        self.folder = folder
        self.token = token
        if unix is None:
            self.socket = socket.create_server(("127.0.0.1", 0))
            self.port = self.socket.getsockname()[1]
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(str(unix))
            # Who connects before the server accepts waits; without this he is refused.
            self.socket.listen()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()))
        self.server: uvicorn.Server | None = None

    async def serve(self) -> None:
        config = read_policy(self.folder / "bgserver.toml", self.folder, "bgserver.toml")
        store = Store.open(config.state)
        snapshot = store.snapshot()
        store.close()
        self.table = Cell(config.table(snapshot.routes))
        stages = Stages(config, self.table, snapshot, {}, time.time)
        state = StateThread(lambda: Store.open(config.state, patience=0.2), stages.follow)
        control = ServerControl(stages, state, cast("Evidence", Unjudged()))
        state.start(asyncio.get_running_loop(), snapshot.version)
        app = create_admin(control, token=self.token)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.ready.set()
        await self.server.serve([self.socket])
        await state.stop()

    def stop(self) -> None:
        assert self.server is not None
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Serving]]:
    """
    Start a server whose admin listener the policy names.
    """
    running: list[Serving] = []

    def started(token: str | None = None, named: bool = True, unix: Path | None = None) -> Serving:
        serving = Serving(folder, token, unix)
        if named:
            where = f"tcp:{serving.port}:interface=127.0.0.1"
            (folder / "bgserver.toml").write_text(POLICY.replace("ADMIN", where))
        serving.thread.start()
        serving.ready.wait()
        running.append(serving)
        return serving

    yield started
    for serving in running:
        serving.stop()
