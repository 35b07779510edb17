"""
The servers that the benchmark of tasks asks: the application, the bare route beside it, and a Redis.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.servers import TARGETS, UVICORN, Server, environment, script, start
from tests.contract.stores import Database


class Redis:
    """
    A Redis of our own, which may be frozen and killed.
    """

    def __init__(self, folder: Path) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        command = ["redis-server", "--port", str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextmanager
def server(
    name: str, folder: Path, more: str = "", url: str = "", **settings: str
) -> Iterator[tuple[http.client.HTTPConnection, Database, int]]:
    """
    A real server, with `more` in its policy, a connection to it that is kept, its database and its process.
    """
    [target] = [each for each in TARGETS if each.name == name]
    folder.mkdir()
    made = start(target, folder, {**settings, "JOBS_DATABASE": url}, more=more).listening()
    database = Database(url or f"sqlite:///{folder / 'data' / 'jobs.db'}")
    connection = http.client.HTTPConnection(*made.address, timeout=30)
    try:
        yield connection, database, made.process.pid
    finally:
        connection.close()
        database.close()
        made.kill()


@contextmanager
def bare(folder: Path, url: str) -> Iterator[http.client.HTTPConnection]:
    """
    A connection to a server of the bare route.
    """
    folder.mkdir()
    command = [*script("uvicorn"), "tests.benchmarks.bare_enqueue:create_app", "--factory", *UVICORN, "0"]
    env = environment(BARE_DATABASE=url or f"sqlite:///{folder / 'bare.db'}")
    made = Server.start(command, folder, env, folder / "log").listening()
    connection = http.client.HTTPConnection(*made.address, timeout=30)
    try:
        yield connection
    finally:
        connection.close()
        made.kill()


def post(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    connection.request("POST", "/log?message=m")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 202, answer.status
    return time.perf_counter() - began
