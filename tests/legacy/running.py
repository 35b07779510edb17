"""
The Twisted server alone, as a process: `twistd -ny legacy_twisted/server.tac` on a port of its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """
    One process; `ask` talks to it.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.log = folder / "twistd.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("JOBS_", "PYTHON"))}
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
        environ["JOBS_LISTEN"] = "tcp:0:interface=127.0.0.1"
        environ.update({f"JOBS_{name.upper()}": value for name, value in settings.items()})
        command = [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "--pidfile=",
            "-ny",
            str(ROOT / "legacy_twisted" / "server.tac"),
        ]
        with self.log.open("ab") as log:
            self.began = log.tell()
            self.process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)

    def said(self) -> str:
        """
        Its log since this start.
        """
        return self.log.read_bytes()[self.began :].decode()

    @property
    def port(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = re.findall(r"Site starting on (\d+)", self.said())
            if found:
                return int(found[-1])
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        raise AssertionError(self.said())

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, body: object = None):
        """
        The status and the JSON of one answer.
        """
        with contextlib.closing(self.connect()) as connection:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    def ended(self, taskId: str) -> dict[str, object]:
        """
        A task, once it has ended.
        """
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            _, found = self.ask("GET", f"/task/{taskId}")
            if found["status"] in ("SUCCESS", "FAILURE", "CANCELLED"):
                return found
            time.sleep(0.02)
        raise AssertionError((found, self.said()))

    def stop(self, number: int = signal.SIGTERM) -> float:
        """
        End it; seconds that it took.
        """
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(30)
        return time.monotonic() - started

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
