"""
Real server processes for tests: how each target is started, where it listens, and how it ends.

A server binds port 0 and says which port it got, so that no two tests can want the same one. Its standard output and
error go to one file, which is shown when something is wrong. Only processes started here are ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from tests.contract import warm

ROOT = Path(__file__).resolve().parents[2]
START = 30.0  # seconds until a server must listen

# Whether servers start by themselves, as a user's do, and not warm: for tests of the start, and for all long ones.
COLD = os.environ.get("BGSERVER_LONG") == "1"
_SCRIPTS = {str(Path(sys.executable).with_name(name)) for name in ("twistd", "uvicorn")}

# The legacy application alone, any uvicorn, and bgserver, each in its own words.
LISTENING = re.compile(r"(?:Site starting on |(?:Uvicorn running|Listening) on http://127\.0\.0\.1:)([1-9][0-9]+)")


class ServerError(Exception):
    """
    A server did not do what its test needs, with all that it said.
    """


def script(name: str) -> list[str]:
    """
    The command line of a console script of this environment.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ServerError(f"{path} is missing: install the project with its dependencies")
    return [str(path)]


def environment(tree: Path = ROOT, **more: str) -> dict[str, str]:
    """
    The environment of a server whose code is `tree`: nothing of the caller's settings goes in.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBS_", "BGSERVER_", "PYTHON"))}
    path = os.pathsep.join((str(tree), str(tree / "twistd_plugin")))
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


@attrs.define
class Server:
    """
    One process, running or ended.
    """

    command: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes] | warm.Forked
    log: Path
    address: tuple[str, int] = ("", 0)

    @classmethod
    def start(cls, command: Sequence[str], folder: Path, env: Mapping[str, str], log: Path) -> Server:
        """
        Start `command` in `folder`, without waiting for anything.
        """
        with log.open("ab") as output:
            if command[0] in _SCRIPTS and not COLD:
                return cls(command, folder, warm.fork(command, folder, env, output), log)
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests alone
            )
        return cls(command, folder, process, log)

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def last_words(self) -> str:
        return self.said()[-3000:]

    def listening(self, pattern: re.Pattern[str] = LISTENING, timeout: float = START) -> Server:
        """
        Wait until the server says its port.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # Whole lines only: a port may be half written.
            found = pattern.search(self.said().rpartition("\n")[0])
            if found is not None:
                self.address = ("127.0.0.1", int(found[1]))
                return self
            if self.process.poll() is not None:
                raise ServerError(f"{self._title()} ended with {self.process.returncode}:\n{self.last_words()}")
            time.sleep(0.02)
        self.kill()
        raise ServerError(f"{self._title()} said no port within {timeout:g} s:\n{self.last_words()}")

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """
        Signal the process and wait; the exit status. ServerError where it does not end in time.
        """
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{self._title()} ignored {how.name} for {timeout:g} s:\n{self.last_words()}") from None

    def kill(self) -> None:
        """
        SIGKILL to the process and to what it started, and wait.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _title(self) -> str:
        return " ".join(self.command)


@attrs.frozen
class Target:
    """
    One way to serve the contract: who answers, and through what.
    """

    name: str
    side: str  # who answers: legacy or modern
    through: str  # alone, owned (twistd -n bgserver) or attached (uvicorn bridge.asgi)
    store: str = "sqlite"  # or postgresql

    @property
    def slow(self) -> bool:
        """
        Whether only the whole suite runs it: the quick one has each application alone, and each under bgserver once.
        """
        return self.through == "attached" or self.store == "postgresql"

    @property
    def long(self) -> bool:
        """
        Whether only the full count runs it: each half of it, the way and the store, runs in the whole suite already.
        """
        return self.through == "attached" and self.store == "postgresql"


TARGETS = (
    Target("legacy", "legacy", "alone"),
    Target("modern", "modern", "alone"),
    Target("owned-legacy", "legacy", "owned"),
    Target("owned-modern", "modern", "owned"),
    Target("attached-legacy", "legacy", "attached"),
    Target("attached-modern", "modern", "attached"),
    Target("legacy-postgresql", "legacy", "alone", "postgresql"),
    Target("modern-postgresql", "modern", "alone", "postgresql"),
    Target("owned-legacy-postgresql", "legacy", "owned", "postgresql"),
    Target("owned-modern-postgresql", "modern", "owned", "postgresql"),
    Target("attached-legacy-postgresql", "legacy", "attached", "postgresql"),
    Target("attached-modern-postgresql", "modern", "attached", "postgresql"),
)

UVICORN = ("--host", "127.0.0.1", "--port")

POLICY = """\
listen = ["tcp:{port}:interface=127.0.0.1"]
state = "sqlite:///{folder}/bgserver.db"
{more}
[legacy]
app = "legacy_twisted.server:make_service"

[modern]
app = "modern_fastapi.app:create_app"

[routes]
stage = "{stage}"
"""


def start(
    target: Target,
    folder: Path,
    settings: Mapping[str, str],
    tree: Path = ROOT,
    policy: str | None = None,
    more: str = "",
    port: int = 0,
) -> Server:
    """
    Start `target` below `folder`, with `settings` (JOBS_…) in the environment, from the code in `tree`.

    It listens on `port`; 0 is any. The caller waits with `listening()`. The application alone needs no policy; `more`
    is put into the one that is written otherwise.
    """
    env = environment(tree, **{"JOBS_DATA": str(folder / "data"), **settings})
    log = folder / "server.log"
    if target.through == "alone":
        if target.side == "legacy":
            env["JOBS_LISTEN"] = f"tcp:{port}:interface=127.0.0.1"
            pid = f"--pidfile={folder / 'twistd.pid'}"
            command = [*script("twistd"), pid, "-ny", str(tree / "legacy_twisted" / "server.tac")]
        else:
            command = [*script("uvicorn"), "modern_fastapi.app:create_app", "--factory", *UVICORN, str(port)]
        return Server.start(command, folder, env, log)
    file = folder / "bgserver.toml"
    file.write_text(policy or POLICY.format(folder=folder, stage=target.side, more=more, port=port), "utf-8")
    if target.through == "owned":
        pid = f"--pidfile={folder / 'twistd.pid'}"
        command = [*script("twistd"), pid, "-n", "bgserver", "--config", str(file)]
    else:
        env["BGSERVER_CONFIG"] = str(file)
        command = [*script("uvicorn"), "bridge.asgi:create_app", "--factory", *UVICORN, str(port)]
    return Server.start(command, folder, env, log)
