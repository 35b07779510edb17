"""
Measures one Resource tree under Twisted's default reactor and Site, and under the harness's front.

`python tests/benchmarks/web_throughput.py` needs wrk on the path and prints one table: requests a second and CPU
microseconds a request, and both as multiples of native's. Rounds are short and many, since a shared machine's speed
changes from one second to the next: a ratio is the median of those within one round, with the middle half of them
behind it. It refuses to judge.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("native", "uvloop", "asyncio", "asgi")
FORM = "a=1&name=some+body&text=" + "x" * 60
CASES = {
    "hello": ("/hello", ""),
    "headers": ("/hello", "".join(f'wrk.headers["X-Name-{n}"] = "value-{n}"\n' for n in range(9))),
    "json": ("/json", ""),
    "form": (
        "/form",
        f'wrk.method = "POST"\nwrk.body = "{FORM}"\n'
        'wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"\n',
    ),
    "file": ("/file", ""),
    "deferred": ("/deferred", ""),
}
# What the promise asks for, over native.
ASKED = {"hello": 1.7, "headers": 1.7, "json": 1.7, "form": 1.7, "file": 1.5, "deferred": 1.7}
REPORT = """
done = function(summary, latency, requests)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  print(string.format("RESULT %d %d %d", summary.requests, summary.duration, bad))
end
"""


def tree(reactor: Any, big: str) -> Any:
    """
    The application, the same for all.
    """
    from twisted.web.resource import Resource
    from twisted.web.server import NOT_DONE_YET, Site
    from twisted.web.static import File

    class Hello(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            return b"Hello, world!"

    class Json(Resource):
        isLeaf = True
        rows = [{"id": n, "name": f"row {n}", "done": n % 2 == 0} for n in range(210)]

        def render_GET(self, request: Any) -> bytes:
            request.setHeader(b"Content-Type", b"application/json")
            return BODY

    class Form(Resource):
        isLeaf = True

        def render_POST(self, request: Any) -> bytes:
            return b"Hello, " + request.args[b"name"][0]

    class Deferred(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> int:
            reactor.callLater(0, self.answer, request)
            return NOT_DONE_YET

        def answer(self, request: Any) -> None:
            request.write(b"Hello, later!")
            request.finish()

    BODY = json.dumps(Json.rows).encode()
    root = Resource()
    for name, child in (
        (b"hello", Hello()),
        (b"json", Json()),
        (b"form", Form()),
        (b"deferred", Deferred()),
        (b"file", File(big)),
    ):
        root.putChild(name, child)
    site = Site(root)
    # Both sides pay for the access log or neither does: Twisted's own log has no file here.
    site.log = lambda request: None  # type: ignore[method-assign]
    return site


def serve(variant: str, big: str) -> None:
    """
    One server; it prints its port and runs until its input ends.
    """
    if variant == "native":
        from twisted.internet import reactor as native

        port = native.listenTCP(0, tree(native, big), interface="127.0.0.1")  # type: ignore[attr-defined]
        native.callWhenRunning(lambda: print(port.getHost().port, flush=True))  # type: ignore[attr-defined]
        native.run()  # type: ignore[attr-defined]
        return
    import asyncio

    from bridge.loop import install

    reactor = install("asyncio" if variant == "asyncio" else "uvloop")
    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    site = tree(reactor, big)
    front = Front(reactor)
    [listener] = front.bind("tcp:0:interface=127.0.0.1", None if variant == "asgi" else site)
    starting: list[asyncio.Task[None]] = []

    async def start() -> None:
        await front.start(ResourceApp(site, reactor))
        print(listener.adopted.port.getHost().port, flush=True)

    reactor.callWhenRunning(lambda: starting.append(asyncio.get_running_loop().create_task(start())))
    reactor.run()


class Server:
    """
    One of them in a process of its own.
    """

    def __init__(self, variant: str, big: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", variant, "--file", big],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu(self) -> float:
        """
        Seconds of CPU so far.
        """
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(server: Server, path: str, script: str, seconds: float) -> tuple[float, float]:
    """
    Requests a second, and CPU microseconds a request.
    """
    before = server.cpu()
    said = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{server.port}{path}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    requests, duration, bad = (int(n) for n in said.rpartition("RESULT ")[2].split())
    if bad:
        raise SystemExit(f"{path}: {bad} requests failed")
    return requests / duration * 1e6, (server.cpu() - before) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--serve", choices=VARIANTS)
    parser.add_argument("--file")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        big = Path(folder, "big.bin")
        big.write_bytes(os.urandom(1 << 20))
        scripts = {}
        for case in options.cases:
            scripts[case] = str(Path(folder, f"{case}.lua"))
            Path(scripts[case]).write_text(CASES[case][1] + REPORT)
        servers = {variant: Server(variant, str(big)) for variant in options.variants}
        try:
            table(options, servers, scripts)
        finally:
            for server in servers.values():
                server.stop()


def table(options: Any, servers: dict[str, Server], scripts: dict[str, str]) -> None:
    """
    Run the rounds and print what they gave.
    """
    for case in options.cases:
        path = CASES[case][0]
        found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in servers}
        for server in servers.values():
            measure(server, path, scripts[case], 1)
        for number in range(options.rounds):
            for variant in turned(list(servers), number):
                found[variant].append(measure(servers[variant], path, scripts[case], options.seconds))
        base = found[next(iter(servers))]
        for variant, rounds in found.items():
            asked = f" (asked {ASKED[case]})" if variant == "uvloop" else ""
            print(f"{case:9} {variant:8} {compared(rounds, base)}{asked}", flush=True)


def turned(names: list[str], number: int) -> list[str]:
    """
    The names in another order each time, so that nobody always comes after the same one.
    """
    first = number % len(names)
    return names[first:] + names[:first]


def compared(rounds: list[tuple[float, float]], base: list[tuple[float, float]]) -> str:
    """
    Requests a second and CPU microseconds a request, each with how many times better than the base's it is.
    """
    rates = [rate / other for (rate, _), (other, _) in zip(rounds, base, strict=True)]
    costs = [other / cpu for (_, cpu), (_, other) in zip(rounds, base, strict=True)]
    rate = statistics.median(rate for rate, _ in rounds)
    cpu = statistics.median(cpu for _, cpu in rounds)
    return f"{rate:9.0f}/s {_spread(rates)}  {cpu:7.1f} µs {_spread(costs)}"


def _spread(ratios: list[float]) -> str:
    ordered, quarter = sorted(ratios), len(ratios) // 4
    return f"{statistics.median(ordered):5.2f}× ({ordered[quarter]:.2f}–{ordered[-1 - quarter]:.2f})"


if __name__ == "__main__":
    main()
