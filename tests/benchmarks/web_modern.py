"""
What a FastAPI application pays for the harness: requests a second and CPU microseconds a request under bare uvicorn,
under `twistd bgserver` alone, and there beside a legacy application whose access log is off.

    python -m tests.benchmarks.web_modern [--starts 6] [--rounds 4] [--seconds 1]

Needs wrk on the path. Many short rounds, interleaved, since the machine's speed changes from one second to the next: a
ratio is the median of those within one round, and its spread is that of the middle half of the rounds. Each server is
started several times, since one process of the same program is up to a sixth faster than another, for its whole life.
The promise is 0.97 of bare uvicorn.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import web_throughput
from tests.benchmarks.web_throughput import REPORT, ROOT, compared, measure, turned

APP = """
from fastapi import FastAPI
from twisted.web.resource import Resource
from twisted.web.server import Site

app = FastAPI()


@app.get("/hello")
async def hello() -> str:
    return "Hello, world!"


@app.get("/items/{item_id}")
async def item(item_id: int) -> dict[str, int]:
    return {"id": item_id}


def legacy() -> Site:
    site = Site(Resource())
    site.log = lambda request: None
    return site
"""
MODERN = """
listen = ["tcp:{port}:interface=127.0.0.1"]

[modern]
app = "application:app"

[routes]
stage = "modern"

[[route]]
match = "GET /hello"

[[route]]
match = "GET /items/{{item_id}}"
"""
LEGACY = """
[legacy]
app = "application:legacy"
"""
VARIANTS = {"uvicorn": "", "bgserver": MODERN, "beside": MODERN + LEGACY}
PATHS = ("/hello", "/items/7")
# By path and variant: requests a second and CPU microseconds a request.
Found = dict[str, dict[str, list[tuple[float, float]]]]


class Server(web_throughput.Server):
    """
    One of them, in a process of its own.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=name, dir=folder))
        (self.folder / "application.py").write_text(APP)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        if name == "uvicorn":
            command = ["-m", "uvicorn", "application:app", f"--port={self.port}", "--no-access-log"]
        else:
            (self.folder / "bgserver.toml").write_text(VARIANTS[name].format(port=self.port))
            command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "bgserver"]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "twistd_plugin"), str(self.folder)])
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": paths},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise SystemExit(f"no server:\n{self.log.read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=1)
    options = parser.parse_args()
    found: Found = {path: {name: [] for name in VARIANTS} for path in PATHS}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        script = folder / "report.lua"
        script.write_text(REPORT)
        for number in range(options.starts):
            servers: dict[str, Server] = {}
            try:
                for name in turned(list(VARIANTS), number):
                    servers[name] = Server(name, folder)
                run(options.rounds, options.seconds, servers, str(script), found)
            finally:
                for server in servers.values():
                    server.stop()
    for path, each in found.items():
        for name in VARIANTS:
            print(f"{path:9} {name:9} {compared(each[name], each['uvicorn'])}", flush=True)


def run(rounds: int, seconds: int, servers: dict[str, Server], script: str, found: Found) -> None:
    """
    Some rounds of servers that have just started.
    """
    for path in PATHS:
        for server in servers.values():
            measure(server, path, script, 1)
        for number in range(rounds):
            for name in turned(list(servers), number):
                found[path][name].append(measure(servers[name], path, script, seconds))


if __name__ == "__main__":
    main()
