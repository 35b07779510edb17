"""
Measures two stacks in one process against what people do instead: nginx in front of two servers.

`python -m tests.benchmarks.web_nginx` needs nginx and wrk on the path, and says so where one is missing. On one side
stand nginx, Twisted's default reactor with the Site, and uvicorn with the FastAPI application; on the other bgserver
alone. Both serve `/old` from the Site and `/new` from FastAPI, with kept connections everywhere and no access log. One
table: requests a second, and CPU microseconds a request of all processes of that side, medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.web_throughput import REPORT

ROOT = Path(__file__).resolve().parents[2]
ALTERNATE = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", n % 2 == 0 and "/old" or "/new")
end
"""
CASES = {
    "old": ("/old", ""),
    "new": ("/new", ""),
    "both": ("/old", ALTERNATE),
}
NGINX = """
daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream old {{ server 127.0.0.1:{old}; keepalive 64; keepalive_requests 100000000; }}
    upstream new {{ server 127.0.0.1:{new}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        location /old {{ proxy_pass http://old; }}
        location /new {{ proxy_pass http://new; }}
    }}
}}
"""


def site() -> Any:
    """
    The legacy application.
    """
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Old(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            return b"Hello, world!"

    root = Resource()
    root.putChild(b"old", Old())
    made = Site(root)
    made.log = lambda request: None  # type: ignore[method-assign]
    return made


def api() -> Any:
    """
    The modern one.
    """
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/new")
    async def new() -> dict[str, str]:
        return {"hello": "world"}

    return app


def serve(name: str) -> None:
    """
    One server; it prints its port and runs until it is killed.
    """
    if name == "twisted":
        from twisted.internet import reactor as native

        port = native.listenTCP(0, site(), interface="127.0.0.1")  # type: ignore[attr-defined]
        native.callWhenRunning(lambda: print(port.getHost().port, flush=True))  # type: ignore[attr-defined]
        native.run()  # type: ignore[attr-defined]
        return
    if name == "uvicorn":
        import socket

        import uvicorn

        sock = socket.create_server(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        config = uvicorn.Config(api(), access_log=False, log_level="warning", http="httptools", loop="uvloop")
        uvicorn.Server(config).run(sockets=[sock])
        return
    import asyncio

    from bridge.loop import install

    reactor = install("uvloop")
    from bridge.dispatch import Dispatcher, ShadowQueue
    from bridge.routing import Cell, Route, RouteTable, Side, Stage
    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    class Judge:
        def judge(self, trial: Any) -> None: ...

        def doubts(self, trial: Any) -> bool:
            return False

        def dropped(self, decision: Any, why: Any) -> None: ...

        def answered(self, decision: Any, status: int, seconds: float) -> None: ...

    made = site()
    sides = {Side.LEGACY: ResourceApp(made, reactor), Side.MODERN: api()}
    table = Cell(RouteTable.build([Route("GET /new", Stage.MODERN)]))
    dispatcher = Dispatcher(table, sides, ShadowQueue(sides, Judge()))
    front = Front(reactor)
    [listener] = front.bind("tcp:0:interface=127.0.0.1", made, table.value.decide, dispatcher.watch)
    starting: list[asyncio.Task[None]] = []

    async def start() -> None:
        await front.start(dispatcher)
        print(listener.adopted.port.getHost().port, flush=True)

    reactor.callWhenRunning(lambda: starting.append(asyncio.get_running_loop().create_task(start())))
    reactor.run()


def child(name: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.web_nginx", "--serve", name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def nginx(folder: Path, old: int, new: int) -> tuple[subprocess.Popen[str], int]:
    """
    nginx in front of these two ports.
    """
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, old=old, new=new, port=port))
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], text=True)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process, port
    raise SystemExit(f"nginx doesn't listen: {(folder / 'error.log').read_text()}")


def cpu(processes: list[subprocess.Popen[str]]) -> float:
    """
    Seconds of CPU so far of these, and of what they started.
    """
    total = 0
    for process in processes:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (str(process.pid), *children):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(
    processes: list[subprocess.Popen[str]], port: int, path: str, script: str, seconds: int
) -> tuple[float, float]:
    """
    Requests a second, and CPU microseconds a request.
    """
    before = cpu(processes)
    said = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{port}{path}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    requests, duration, bad = (int(n) for n in said.rpartition("RESULT ")[2].split())
    if bad:
        raise SystemExit(f"{path}: {bad} requests failed")
    return requests / duration * 1e6, (cpu(processes) - before) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--serve", choices=("twisted", "uvicorn", "bgserver"))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    missing = [name for name in ("nginx", "wrk") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"skipped: {' and '.join(missing)} can't be found on the path")
    started: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripts = {}
        for case, (_, script) in CASES.items():
            scripts[case] = str(folder / f"{case}.lua")
            Path(scripts[case]).write_text(script + REPORT)
        try:
            twisted, old = child("twisted")
            started.append(twisted)
            uvicorn, new = child("uvicorn")
            started.append(uvicorn)
            proxy, port = nginx(folder, old, new)
            started.append(proxy)
            alone, own = child("bgserver")
            started.append(alone)
            table(options, {"nginx": ([proxy, twisted, uvicorn], port), "bgserver": ([alone], own)}, scripts)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()


def table(options: Any, sides: dict[str, tuple[list[subprocess.Popen[str]], int]], scripts: dict[str, str]) -> None:
    """
    Run the rounds and print what they gave.
    """
    for case, (path, _) in CASES.items():
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for processes, port in sides.values():
            measure(processes, port, path, scripts[case], 1)
        for _ in range(options.rounds):
            for side, (processes, port) in sides.items():
                found[side].append(measure(processes, port, path, scripts[case], options.seconds))
        base = statistics.median(each for _, each in found["nginx"])
        for side, rounds in found.items():
            rate = statistics.median(r for r, _ in rounds)
            each = statistics.median(c for _, c in rounds)
            print(f"{case:5} {side:9} {rate:9.0f}/s {each:7.1f} µs CPU a request {each / base:5.2f}×", flush=True)


if __name__ == "__main__":
    main()
