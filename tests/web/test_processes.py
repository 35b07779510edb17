"""
What the policy says of listeners, on real processes: ports that are shared, and proxies that are believed.
"""

from __future__ import annotations

import http.client
import re
import socket
import sqlite3
import ssl
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificate, self_signed
from tests.contract.servers import Server, environment, script

APPLICATION = '''
import gc
import os

from twisted.web.resource import Resource


class Who(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/frozen":
            return b"%d" % gc.get_freeze_count()
        return f"{os.getpid()} {getattr(request.getClientAddress(), 'host', None)}".encode()


resource = Who()


async def modern(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("it has none")
    body = f"{os.getpid()} {(scope['client'] or [None])[0]} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
'''
POLICY = """
listen = ["{listen}"]
state = "sqlite:///{folder}/bgserver.db"
{more}

[legacy]
app = "who:resource"

[modern]
app = "who:modern"

[[route]]
match = "GET /new"
stage = "modern"

[[route]]
match = "GET /moving"
stage = "{stage}"
"""


# Said when everything is up; each policy is named by its number.
READY = re.compile(r"Policy: ([0-9]+)\.toml")

# What systemd does: a socket that listens already, as the first descriptor after the three.
ACTIVATE = """
import os, socket, sys
made = socket.create_server(("127.0.0.1", 0))
os.dup2(made.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"""


class Servers:
    """
    Starts servers of one application, and ends them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "who.py").write_text(APPLICATION)
        self.started: list[Server] = []

    def start(
        self,
        more: str = "",
        port: int = 0,
        attached: bool = False,
        listen: str = "tcp:{port}:interface=127.0.0.1",
        before: tuple[str, ...] = (),
        stage: str = "legacy",
    ) -> Server:
        name = f"{len(self.started)}"
        policy = POLICY.format(listen=listen.format(port=port), folder=self.folder, more=more, stage=stage)
        (self.folder / f"{name}.toml").write_text(policy)
        if attached:
            command = [*script("uvicorn"), "bridge.asgi:create_app", "--factory", "--port", str(port)]
            command += ["--http", "bridge.web.site_protocol:SiteProtocol", "--no-proxy-headers"]
        else:
            command = [*script("twistd"), "-n", "--pidfile=", "bgserver", "--config", f"{name}.toml"]
        command = [*before, *command]
        env = environment(BGSERVER_CONFIG=f"{name}.toml")
        server = Server.start(command, self.folder, env, self.folder / f"{name}.log")
        self.started.append(server)
        return server


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    for server in made.started:
        server.kill()


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    pytest.importorskip("OpenSSL", reason="TLS is an extra")
    return self_signed(tmp_path)


def over_tls(port: int, certificate: Certificate) -> http.client.HTTPSConnection:
    trusting = ssl.create_default_context(cafile=str(certificate.public))
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting)


def ask(server: Server, path: str = "/", headers: dict[str, str] | None = None) -> list[str]:
    """
    What one request on a connection of its own is told.
    """
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        return told(connection, path, headers)
    finally:
        connection.close()


def told(connection: http.client.HTTPConnection, path: str = "/", headers: dict[str, str] | None = None) -> list[str]:
    connection.request("GET", path, headers=headers or {})
    return connection.getresponse().read().decode().split()


def test_two_processes_on_one_port(servers: Servers) -> None:
    """
    With reuse_port both answer; when one stops, none of the others' clients notices.
    """
    one = servers.start("reuse_port = true").listening()
    two = servers.start("reuse_port = true", one.address[1]).listening()

    pids = {ask(one)[0] for _ in range(100)}

    assert {str(one.process.pid), str(two.process.pid)} == pids
    assert 0 == one.stop()
    assert {str(two.process.pid)} == {ask(one)[0] for _ in range(50)}


def test_a_port_is_nobody_elses_by_default(servers: Servers) -> None:
    """
    Without it a second server is refused, in one line that says why.
    """
    one = servers.start().listening()
    two = servers.start(port=one.address[1])

    assert 0 != two.process.wait(30)
    assert re.search(r"(?i)address already in use", two.said())
    assert "Traceback" not in two.said()


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("more, believed", [("", False), ('trusted_proxies = ["127.0.0.0/8"]', True)])
def test_a_forged_header(servers: Servers, more: str, believed: bool, attached: bool) -> None:
    """
    X-Forwarded-* count for modern only from addresses that the policy names, and never for legacy.
    """
    server = servers.start(more, attached=attached).listening()
    forged: dict[str, Any] = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}

    assert (["192.0.2.7", "https"] if believed else ["127.0.0.1", "http"]) == ask(server, "/new", forged)[1:]
    assert ["127.0.0.1"] == ask(server, "/", forged)[1:]


@pytest.mark.parametrize("attached", [False, True])
def test_the_heap_is_put_aside(servers: Servers, attached: bool) -> None:
    """
    In both modes, before anybody is answered.
    """
    server = servers.start(attached=attached).listening()

    assert int(*ask(server, "/frozen")) > 20_000


@pytest.mark.slow
def test_tls(servers: Servers, certificate: Certificate) -> None:
    """
    An ssl: endpoint of the policy speaks TLS with that certificate, on both sides, and several
    processes share it too.
    """
    listen = f"ssl:{{port}}:interface=127.0.0.1:privateKey={certificate.private}:certKey={certificate.public}"
    one = servers.start("reuse_port = true", listen=listen).listening()
    two = servers.start("reuse_port = true", one.address[1], listen=listen).listening(READY)
    pids = set()
    for _ in range(40):
        connection = over_tls(one.address[1], certificate)
        legacy, modern = told(connection), told(connection, "/new")
        connection.close()
        pids.add(legacy[0])

        assert legacy[0] == modern[0]
        assert ["127.0.0.1", "https"] == modern[1:]

    assert {str(one.process.pid), str(two.process.pid)} == pids
    assert [0, 0] == [one.stop(), two.stop()]


@pytest.mark.slow
@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
def test_ipv6(servers: Servers) -> None:
    """
    A tcp6: endpoint, whose clients have IPv6 addresses on both sides.
    """
    server = servers.start(listen="tcp6:0:interface=\\\\:\\\\:1")
    server.listening(re.compile(r"Listening on http://\[::1\]:([1-9][0-9]+)"))
    connection = http.client.HTTPConnection("::1", server.address[1], timeout=10)

    assert ["::1"] == told(connection)[1:]
    assert ["::1", "http"] == told(connection, "/new")[1:]
    connection.close()
    assert 0 == server.stop()


class OverUnix(http.client.HTTPConnection):
    """
    HTTP over a UNIX socket.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, True])
def test_a_unix_socket(servers: Servers, trusted: bool) -> None:
    """
    A unix: endpoint, gone when the server is; its peers have no address, and are believed
    where the policy says so.
    """
    path = servers.folder / "web.sock"
    more = 'trusted_proxies = ["unix"]' if trusted else ""
    server = servers.start(more, listen=f"unix:{path}").listening(READY)
    connection = OverUnix(path)
    pid = str(server.process.pid)

    assert [pid, "None"] == told(connection)
    forged = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert [pid, *(("192.0.2.7", "https") if trusted else ("None", "http"))] == told(connection, "/new", forged)
    connection.close()
    assert 0 == server.stop()
    assert not path.exists()


@pytest.mark.slow
def test_a_socket_of_systemd(servers: Servers) -> None:
    """
    A systemd: endpoint is the socket that the service was started with.
    """
    before = (sys.executable, "-c", ACTIVATE)
    server = servers.start(listen="systemd:domain=INET:index=0", before=before).listening()

    assert [str(server.process.pid), "127.0.0.1"] == ask(server)
    assert 0 == server.stop()


def raw(server: Server, said: bytes) -> bytes:
    """
    All that is said to these bytes, but for what differs by itself.
    """
    with socket.create_connection(server.address, 10) as client:
        client.sendall(said)
        heard = b"".join(iter(lambda: client.recv(65536), b""))
    return re.sub(rb"Date: [^\r]+", b"Date: -", heard.replace(str(server.process.pid).encode(), b"PID"))


@pytest.mark.parametrize("attached", [False, True])
def test_legacys_requests_are_quick(servers: Servers, attached: bool) -> None:
    """
    Whoever owns the loop. Seen to fail with uvicorn's own listener, where no front of ours starts.
    """
    asked = "getattr(request.getClientAddress(), 'host', None)"
    told = APPLICATION.replace(asked, "request.write.__code__.co_filename")
    (servers.folder / "who.py").write_text(told)

    server = servers.start(attached=attached).listening()

    assert "quick_request.py" == Path(ask(server)[1]).name


@pytest.mark.parametrize("attached", [False, True])
def test_a_stage_does_not_change_the_wire(servers: Servers, attached: bool) -> None:
    """
    A route that is shadowed is answered by the same bytes as before, and its pairs are counted.
    It went behind ASGI, where names are lower-case.
    """
    request = b"GET /moving HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n%s\r\n"
    said = request % b"" * 3 + request % b"Connection: close\r\n"
    heard = []
    for stage in ("legacy", "shadow"):
        server = servers.start(attached=attached, stage=stage).listening()
        heard.append(raw(server, said))
        server.stop()

    assert heard[0] == heard[1]
    assert 4 == heard[1].count(b"\r\nContent-Type: text/html\r\n")
    with closing(sqlite3.connect(servers.folder / "bgserver.db")) as state:
        query = "SELECT name, value FROM bgserver_counts WHERE route = 'GET /moving' AND value > 0"
        counts = dict(state.execute(query))
    # All four: modern's answer is another one, and legacy's second one, behind ASGI, is the same. How long each of
    # them took is the machine's affair, and whether the gate looked once more before the end, and rejected them.
    timed = ("shadow.faster", "shadow.slower", "rejected")
    assert {"shadow.aa": 4, "shadow.against": 4, "shadow.different": 4} == {
        name: count for name, count in counts.items() if name not in timed
    }
