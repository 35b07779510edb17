"""
Applications that nobody here wrote answer under bgserver as they do natively: docs/applications.md's table.

Each is started twice as it comes from the package index, natively and with `--legacy`, and asked the same questions.
What isn't Twisted's own is in the extra `applications`:

    pip install '.[tests,applications]' && BGSERVER_LONG=1 python -m pytest tests/integration/test_applications.py
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.contract.servers import ROOT, Server, environment, script

LOOPBACK = "tcp:0:interface=127.0.0.1"
# What differs by itself from one process to the next.
VARYING = re.compile(rb"(?m)^(Date|Last-Modified): .*$|_created.*$|\b[0-9a-f]{32}\b|pid=[0-9]+")

KLEIN = """
from klein import Klein
from twisted.internet.task import deferLater

app = Klein()


@app.route("/")
def root(request):
    return "root"


@app.route("/hello/<name>", methods=["GET"])
def hello(request, name):
    request.setHeader("X-Name", name)
    return "hello " + name


@app.route("/later")
async def later(request):
    from twisted.internet import reactor

    await deferLater(reactor, 0.01, lambda: None)
    return b"l" * 100_000


@app.route("/form", methods=["POST"])
def form(request):
    return b",".join(request.args[b"a"])


with app.subroute("/below") as below:

    @below.route("/<int:number>")
    def number(request, number):
        return str(number + 1)


if __name__ == "__main__":
    app.run("127.0.0.1", 0)
"""
METRICS = """
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.twisted import MetricsResource

registry = CollectorRegistry()
Counter("asked", "How often", ["who"], registry=registry).labels("me").inc(3)
Histogram("took", "How long", registry=registry).observe(0.2)
resource = MetricsResource(registry)

if __name__ == "__main__":
    import sys

    from twisted.internet import reactor
    from twisted.python import log
    from twisted.web.server import Site

    log.startLogging(sys.stderr)
    reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
    reactor.run()
"""
SCRAPYD = """
[scrapyd]
http_port = PORT
bind_address = 127.0.0.1
poll_interval = 1
"""


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    """
    One answer: its status, its headers as they were written, and its body, without what varies.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        heads = [f"{name}: {value}".encode() for name, value in answer.getheaders()]
        return answer.status, [VARYING.sub(b"", head) for head in heads], VARYING.sub(b"", answer.read())
    finally:
        connection.close()


def of_files(port: int, folder: Path) -> list[Any]:
    found = [ask(port, "GET", path) for path in ("/", "/small.txt", "/folder", "/folder/", "/nowhere")]
    found.append(ask(port, "HEAD", "/small.txt"))
    found.append(ask(port, "GET", "/big.bin", Range="bytes=1000-200000"))
    status, _, body = ask(port, "GET", "/big.bin")
    assert (200, VARYING.sub(b"", (folder / "big.bin").read_bytes())) == (status, body)
    return found


def of_klein(port: int, folder: Path) -> list[Any]:
    form = "application/x-www-form-urlencoded"
    paths = ("/", "/hello/you", "/later", "/below/41", "/below/x", "/nowhere", "/form")
    found = [ask(port, "GET", path) for path in paths]
    found.append(ask(port, "POST", "/form", b"a=1&a=2", Content_Type=form))
    assert [200, 200, 200, 200, 404, 404, 405, 200] == [status for status, _, _ in found]
    return found


def of_metrics(port: int, folder: Path) -> list[Any]:
    found = [ask(port, "GET", "/"), ask(port, "GET", "/", Accept="application/openmetrics-text"), ask(port, "PUT", "/")]
    assert b'asked_total{who="me"} 3.0' in found[0][2]
    return found


def of_scrapyd(port: int, folder: Path) -> list[Any]:
    form = "application/x-www-form-urlencoded"
    paths = ("/", "/jobs", "/daemonstatus.json", "/listprojects.json", "/listjobs.json", "/logs/")
    found = [ask(port, "GET", path) for path in paths]
    found.append(ask(port, "POST", "/schedule.json", b"project=none&spider=none", Content_Type=form))
    found.append(ask(port, "POST", "/delproject.json", b"project=none", Content_Type=form))
    assert b'"status": "ok"' in found[2][2]
    return found


def of_wormhole(port: int, folder: Path) -> list[Any]:
    """
    A text goes from one client to another, both of them magic-wormhole's own.
    """
    client = [*script("wormhole"), "--relay-url", f"ws://127.0.0.1:{port}/v1", "--transit-helper", ""]
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60, env=env, cwd=folder)
    code = "7-guitarist-revenge"
    with subprocess.Popen([*client, "send", "--code", code, "--text", "through it"], env=env, cwd=folder) as sender:
        heard = run([*client, "receive", code])
        sent = sender.wait(30)
    assert (0, 0, "through it\n") == (sent, heard.returncode, heard.stdout), heard.stderr
    status, _, body = ask(port, "GET", "/")
    return [status, body]


@attrs.frozen
class Application:
    """
    One row of the table.

    @ivar package: Without which it isn't there; empty for what Twisted brings.
    @ivar native: How it is started alone, after the interpreter or twistd's own name.
    @ivar legacy: What C{--legacy} gets, and options besides.
    @ivar files: What its folder has.
    """

    package: str
    native: list[str]
    legacy: list[str]
    questions: Callable[[int, Path], list[Any]]
    files: dict[str, str] = attrs.field(factory=dict)


APPLICATIONS = {
    "files": Application(
        "",
        ["twistd", "-n", "--pidfile=", "web", "--path", "served", "--listen", LOOPBACK],
        [f"plugin:web --path served --listen {LOOPBACK}"],
        of_files,
    ),
    "klein": Application(
        "klein", ["python", "myapp.py"], ["myapp:app", "--listen", LOOPBACK], of_klein, {"myapp.py": KLEIN}
    ),
    "prometheus": Application(
        "prometheus_client",
        ["python", "metrics.py"],
        ["metrics:resource", "--listen", LOOPBACK],
        of_metrics,
        {"metrics.py": METRICS},
    ),
    "scrapyd": Application(
        "scrapyd",
        ["twistd", "-n", "--pidfile=", "-y", "scrapyd.tac"],
        ["scrapyd.txapp:application"],
        of_scrapyd,
        {"scrapyd.conf": SCRAPYD, "scrapyd.tac": "from scrapyd.txapp import application\n"},
    ),
    "wormhole": Application(
        "wormhole_mailbox_server",
        ["twistd", "-n", "--pidfile=", "wormhole-mailbox", f"--port={LOOPBACK}"],
        [f"plugin:wormhole-mailbox --port={LOOPBACK}"],
        of_wormhole,
    ),
}


def free() -> int:
    """
    A port for who can't be told to take any: scrapyd takes 0 for none.
    """
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[Application, bool], tuple[Server, Path]]]:
    servers: list[Server] = []

    def start(application: Application, native: bool) -> tuple[Server, Path]:
        folder = tmp_path / ("native" if native else "here")
        (folder / "served" / "folder").mkdir(parents=True)
        (folder / "served" / "small.txt").write_text("small\n" * 10)
        (folder / "served" / "big.bin").write_bytes(bytes(range(256)) * 1200)
        for name, text in application.files.items():
            (folder / name).write_text(text.replace("PORT", str(free())))
        if native:
            name, *more = application.native
            command = [sys.executable, *more] if name == "python" else [*script(name), *more]
        else:
            legacy, *options = application.legacy
            command = [*script("twistd"), "-n", "--pidfile=", "bgserver", "--legacy", legacy, *options]
        servers.append(Server.start(command, folder, environment(), folder / "server.log"))
        return servers[-1].listening(), folder / "served" if application.questions is of_files else folder

    yield start
    for server in servers:
        server.kill()


@pytest.mark.long
@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_same_answers(name: str, started: Callable[[Application, bool], tuple[Server, Path]]) -> None:
    """
    Statuses, headers as they are written, and bodies are the same as natively; and both end when they are told to.
    """
    application = APPLICATIONS[name]
    if application.package:
        pytest.importorskip(application.package, reason="the extra `applications` isn't installed")
    answers = []
    for native in (True, False):
        server, folder = started(application, native)
        answers.append(application.questions(server.address[1], folder))
        status = server.stop()
        assert native or 0 == status, server.last_words()

    assert answers[0] == answers[1]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("package", ["klein", "wormhole_mailbox_server"])
def test_their_own_tests(package: str) -> None:
    """
    Their own tests pass on our listeners and channels as on Twisted's.
    """
    pytest.importorskip(package, reason="the extra `applications` isn't installed")
    found = {}
    for mode in ("native", "listened", "built"):
        with tempfile.TemporaryDirectory() as folder:
            said = subprocess.run(
                [sys.executable, "-m", "tests.web.adapted_suite", mode, f"{package}.test"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "GIVE_UP": "280"},
                capture_output=True,
                text=True,
            )
        assert "SUITE " in said.stdout, said.stderr[-3000:]
        found[mode] = json.loads(said.stdout.rpartition("SUITE ")[2])

    native = set(found["native"]["passed"])
    assert 100 < len(native)
    assert [native, native] == [set(found[mode]["passed"]) for mode in ("listened", "built")]
