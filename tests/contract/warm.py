"""
Starts servers in a fraction of their time: one process imports what all of them import from others, once, and forks.

A forked server is what the command line would have made: its own arguments, folder, environment, session, descriptors
and modules; of this project it has imported nothing. What is tested at the start itself starts cold, and so does the
long command.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

# What the servers of this project take the time to import. None of it may import a reactor or start a thread.
SHARED = (
    "aiosmtplib",
    "aiosqlite",
    "apscheduler.schedulers.asyncio",
    "fastapi.responses",
    "fastapi.openapi.utils",
    "itsdangerous",
    "python_multipart",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.orm",
    "starlette.middleware.sessions",
    "twisted.application.app",
    "twisted.internet.asyncioreactor",
    "twisted.internet.ssl",
    "twisted.web.static",
    "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.wsproto_impl",
    "uvloop",
    "wsproto",
)


class NestError(Exception):
    """
    A server could not be forked, or nobody is left who knows how one ended.
    """


class Forked:
    """
    A process, with as much of `subprocess.Popen` as a server's test asks. Whoever signals a process that has ended and
    was not waited for signals nothing, as there. Any thread may wait, and several.
    """

    def __init__(self, pid: int, nest: Nest) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nest = nest
        # Its parent is another process: this is how it is waited for here. Open for as long as somebody may look.
        self._ended = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._ended)
        self._reaping = threading.Lock()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """
        The exit status, or minus the signal's number; `subprocess.TimeoutExpired` where it does not end in time.
        """
        if self.returncode is None:
            watched = select.poll()
            watched.register(self._ended, select.POLLIN)
            if not watched.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            with self._reaping:
                # There is one status, and whoever else waits may have asked for it.
                if self.returncode is None:
                    self.returncode = self._nest.reap(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # Whoever reaps it meanwhile gives its number away: not the one who is meant by the descriptor.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ended, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(command: Sequence[str], folder: Path, env: Mapping[str, str], output: BinaryIO) -> Forked:
    """
    Runs `command`, a Python script and its arguments, in `folder`, in a session of its own; it reads nothing, and
    writes all that it says to `output`. `NestError` where it cannot be.
    """
    asked = {"command": list(command), "folder": str(folder), "env": dict(env)}
    nest = _nest()
    return Forked(nest.fork(asked, output), nest)


class Nest:
    """
    The process that forks, seen from the tests: one question at a time.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # What a server gets of Python's settings is in its own environment: a path of the tests' would stay on its own.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=env,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._guard = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def kill(self) -> None:
        """
        For a test: the worst that can happen to it. What it has forked goes on.
        """
        self._process.kill()
        self._process.wait()

    def fork(self, asked: dict[str, Any], output: BinaryIO) -> int:
        return self._ask(asked, [output.fileno()])

    def reap(self, pid: int) -> int:
        return self._ask({"reap": pid}, [])

    def _ask(self, asked: dict[str, Any], descriptors: list[int]) -> int:
        with self._guard:
            try:
                socket.send_fds(self._socket, [json.dumps(asked).encode()], descriptors)
                answer = self._socket.recv(4096).decode()
            except OSError as error:
                answer = str(error)
        try:
            return int(answer)
        except ValueError:
            what = f"status of {asked['reap']}" if "reap" in asked else f"process for {asked['command']}"
            raise NestError(
                f"there is no {what}: {answer or 'no answer'} (the process that forks servers has the status "
                f"{self._process.poll()}, where None is alive; what it said is on the standard error)"
            ) from None


@functools.cache
def _nest() -> Nest:
    return Nest()


def serve(connection: socket.socket) -> list[str] | None:
    """
    In the process that forks: answers until the tests hang up, which is None; returns the command in each fork.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        if not message:
            return None
        asked = json.loads(message)
        if "reap" in asked:
            _, status = os.waitpid(asked["reap"], 0)
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))
        elif os.fork() == 0:
            try:
                become(asked["folder"], asked["env"], descriptors[0])
            except OSError as error:
                connection.send(str(error).encode())
                raise
            # The asker hears of it when it can be signalled as a group of its own.
            connection.send(b"%d" % os.getpid())
            connection.close()
            return list(asked["command"])
        for descriptor in descriptors:
            os.close(descriptor)


def become(folder: str, env: Mapping[str, str], output: int) -> None:
    """
    Makes this process what its command would have started as.
    """
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[attr-defined]
    sys.dont_write_bytecode = True
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)


def main() -> None:
    # The script's folder is the path's first entry: not for the servers.
    del sys.path[0]
    for name in SHARED:
        importlib.import_module(name)
    assert "twisted.internet.reactor" not in sys.modules
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for the tests alone
    command = serve(socket.socket(fileno=int(sys.argv[1])))
    if command is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.unfreeze()
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
