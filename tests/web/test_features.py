"""
What twisted.web offers works on both roads as it does natively: files, encoders, WSGI,
XML-RPC, virtual hosts, guards, proxies, sessions, templates, websockets.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import xmlrpc.client
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request

from tests.web.served import on_loop, serving, until

# Twisted warns of parts of itself that applications still use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:twisted", "ignore:twisted:DeprecationWarning")


class Hello(Resource):
    isLeaf = True

    def __init__(self, text: bytes = b"hello") -> None:
        super().__init__()
        self.text = text

    def render_GET(self, request: Request) -> bytes:
        return self.text


def site(resource: Any, **options: Any) -> Any:
    from twisted.web.server import Site

    return Site(resource, **options)


@on_loop
async def test_file_ranges_and_conditions(road: bool, tmp_path: Path) -> None:
    """
    static.File: one range, several, none that fits, and a conditional request.
    """
    from twisted.web.static import File

    content = os.urandom(300_000)
    (tmp_path / "f.bin").write_bytes(content)
    async with serving(site(File(str(tmp_path))), hot=road) as served:
        client = await served.connect()

        status, headers, body = await client.get("/f.bin")
        assert (200, content, "bytes") == (status, body, headers["accept-ranges"])
        status, headers, body = await client.get("/f.bin", "Range: bytes=100-250099\r\n")
        assert (206, content[100:250_100]) == (status, body)
        assert "bytes 100-250099/300000" == headers["content-range"]
        status, headers, body = await client.get("/f.bin", "Range: bytes=0-9,20-29\r\n")
        assert 206 == status
        assert headers["content-type"].startswith("multipart/byteranges")
        assert content[20:30] in body
        status, headers, _ = await client.get("/f.bin", "Range: bytes=999999-\r\n")
        assert 416 == status
        when = (await client.get("/f.bin"))[1]["last-modified"]
        assert 304 == (await client.get("/f.bin", f"If-Modified-Since: {when}\r\n"))[0]
        assert 404 == (await client.get("/gone"))[0]


@on_loop
async def test_encoder(road: bool) -> None:
    """
    EncodingResourceWrapper compresses, without a length.
    """
    wrapped = EncodingResourceWrapper(Hello(b"x" * 5000), [GzipEncoderFactory()])
    async with serving(site(wrapped), hot=road) as served:
        client = await served.connect()

        _, headers, body = await client.get("/", "Accept-Encoding: gzip\r\n")

        assert "gzip" == headers["content-encoding"]
        assert "content-length" not in headers
        assert b"x" * 5000 == gzip.decompress(body)


@on_loop
async def test_wsgi(road: bool) -> None:
    """
    A WSGI application gets its environment and its body, in threads of its own.
    """
    from twisted.internet import reactor
    from twisted.python.threadpool import ThreadPool
    from twisted.web.wsgi import WSGIResource

    def application(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        start_response("201 Made", [("Content-Type", "text/plain"), ("X-A", "1"), ("X-A", "2")])
        told = (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"], body)
        return [repr(told).encode(), b" and more"]

    pool = ThreadPool(0, 2)
    pool.start()  # type: ignore[no-untyped-call]
    try:
        root = Resource()
        root.putChild(b"app", WSGIResource(reactor, pool, application))
        async with serving(site(root), hot=road) as served:
            client = await served.connect()
            await client.send(b"POST /app/a%20b?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")

            status, headers, body = await client.answer()

            assert 201 == status
            assert "text/plain" == headers["content-type"]
            assert repr(("/app", "/a b", "q=1", b"body")).encode() + b" and more" == body
    finally:
        pool.stop()  # type: ignore[no-untyped-call]


@on_loop
async def test_xmlrpc(road: bool) -> None:
    """
    An XML-RPC resource, with an answer that comes later and one that fails.
    """
    from twisted.web.xmlrpc import XMLRPC

    from bridge.loop import as_deferred

    class Adder(XMLRPC):
        def xmlrpc_add(self, a: int, b: int) -> Any:
            async def later() -> int:
                await asyncio.sleep(0)
                return a + b

            return as_deferred(later())

        def xmlrpc_fault(self) -> Any:
            raise xmlrpc.client.Fault(7, "no")

    async with serving(site(Adder()), hot=road) as served:
        client = await served.connect()
        answers = []
        for call in (xmlrpc.client.dumps((2, 3), "add"), xmlrpc.client.dumps((), "fault")):
            data = call.encode()
            await client.send(
                b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\n"
                b"Content-Length: %d\r\n\r\n" % len(data) + data
            )
            answers.append((await client.answer())[2])

        assert ((5,), None) == xmlrpc.client.loads(answers[0])
        with pytest.raises(xmlrpc.client.Fault):
            xmlrpc.client.loads(answers[1])


@on_loop
async def test_virtual_hosts_and_rewriting(road: bool) -> None:
    """
    vhost looks at Host, VHostMonster changes it, rewrite changes the path.
    """
    from twisted.web.rewrite import RewriterResource
    from twisted.web.vhost import NameVirtualHost, VHostMonsterResource

    class Where(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return request.prePathURL()

    def moved(request: Request) -> None:
        if request.postpath == [b"old"]:
            request.postpath[:] = [b"new"]
            request.path = b"/new"

    hosts = NameVirtualHost()
    root = Resource()
    root.putChild(b"new", Hello(b"moved"))
    root.putChild(b"vh", VHostMonsterResource())
    root.putChild(b"where", Where())
    hosts.addHost(b"a.example", RewriterResource(root, moved))
    hosts.default = root
    async with serving(site(hosts), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET /old HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert b"moved" == (await client.answer())[2]

        status, _, body = await client.get("/vh/https/w.example:444/where")

        assert (200, b"https://w.example:444/where") == (status, body)


@on_loop
async def test_guard(road: bool) -> None:
    """
    cred behind basic authentication.
    """
    from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
    from twisted.cred.portal import IRealm, Portal
    from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
    from twisted.web.resource import IResource
    from zope.interface import implementer

    @implementer(IRealm)
    class Realm:
        def requestAvatar(self, avatar_id: Any, mind: Any, *interfaces: Any) -> Any:
            return IResource, Hello(b"for " + avatar_id), lambda: None

    checker = InMemoryUsernamePasswordDatabaseDontUse()
    checker.addUser(b"ann", b"secret")
    guarded = HTTPAuthSessionWrapper(Portal(Realm(), [checker]), [BasicCredentialFactory(b"here")])
    async with serving(site(guarded), hot=road) as served:
        client = await served.connect()
        status, headers, _ = await client.get("/")
        assert (401, 'basic realm="here"') == (status, headers["www-authenticate"])
        token = base64.b64encode(b"ann:secret").decode()

        assert (200, b"for ann") == (await client.get("/", f"Authorization: Basic {token}\r\n"))[::2]


@on_loop
async def test_reverse_proxy(road: bool) -> None:
    """
    twisted.web.proxy passes requests on, streaming, through the bridged reactor.
    """
    from twisted.web.proxy import ReverseProxyResource

    async with serving(site(Hello(b"z" * 200_000))) as behind:
        proxy = ReverseProxyResource("127.0.0.1", behind.port, b"")
        async with serving(site(proxy), hot=road) as served:
            client = await served.connect()

            status, _, body = await client.get("/")

            assert (200, b"z" * 200_000) == (status, body)


@on_loop
async def test_session(road: bool) -> None:
    """
    getSession sets a cookie once, finds the session again, and it expires by its timer.
    """

    class Counter(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            session = request.getSession()
            session.visits = getattr(session, "visits", 0) + 1
            return b"%d" % session.visits

    made = site(Counter())
    async with serving(made, hot=road) as served:
        client = await served.connect()
        _, headers, body = await client.get("/")
        cookie = headers["set-cookie"].partition(";")[0]

        _, again, second = await client.get("/", f"Cookie: {cookie}\r\n")

        assert (b"1", b"2") == (body, second)
        assert "set-cookie" not in again
        ended: list[int] = []
        [session] = made.sessions.values()
        session.notifyOnExpire(lambda: ended.append(1))
        session.expire()
        assert ([1], {}) == (ended, made.sessions)


@on_loop
async def test_template(road: bool) -> None:
    """
    A template with a Deferred in it is flattened into the answer, piece by piece.
    """
    from twisted.internet.defer import Deferred
    from twisted.web.template import renderElement, tags

    waiting: list[Deferred[Any]] = []

    class Page(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> Any:
            waiting.append(Deferred())
            return renderElement(request, tags.p("before ", waiting[0]))  # type: ignore[arg-type]

    async with serving(site(Page()), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: waiting)
        waiting[0].callback("after")

        _, _, body = await client.answer()

        assert b"<!DOCTYPE html>\n<p>before after</p>" == body


@pytest.mark.parametrize("tracebacks", [False, True])
@on_loop
async def test_failure_page(road: bool, tracebacks: bool) -> None:
    """
    What render raises is Twisted's page, with the traceback only where the Site shows it.
    """

    class Fails(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            raise ValueError("the reason")

    made = site(Fails())
    made.displayTracebacks = tracebacks
    async with serving(made, hot=road) as served:
        client = await served.connect()

        status, _, body = await client.get("/")

        assert 500 == status
        assert tracebacks == (b"the reason" in body)
        assert (b"Processing Failed" in body) != tracebacks


@on_loop
async def test_access_log(road: bool, tmp_path: Path) -> None:
    """
    The Site's own access log has a line for each answer; a shadow writes none (the scope says so).
    """
    log = tmp_path / "access.log"
    made = site(Hello(), logPath=str(log))
    if not road:
        made.doStart()
    async with serving(made, hot=road) as served:
        client = await served.connect()
        await client.get("/seen?x=1")

        assert '"GET /seen?x=1 HTTP/1.1" 200 5' in log.read_text()

    before = log.read_text()
    from twisted.internet import reactor

    from bridge.web.resource_app import ResourceApp

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": None,
        "extensions": {"bgserver.shadow": {}},
    }
    await ResourceApp(made, reactor)(scope, receive, send)

    assert 200 == sent[0]["status"]
    assert before == log.read_text()


@on_loop
async def test_root_path_is_prepath() -> None:
    """
    Below a root_path its segments are in prepath, and the tree begins behind them (W5).
    """
    from twisted.internet import reactor

    from bridge.web.resource_app import ResourceApp

    class Where(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return repr((request.prepath, request.postpath)).encode() + request.prePathURL()

    root = Resource()
    root.putChild(b"where", Where())
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/app/where/x",
        "root_path": "/app",
        "query_string": b"",
        "headers": [(b"host", b"h")],
        "client": ("1.2.3.4", 5),
        "server": ("127.0.0.1", 80),
    }
    await ResourceApp(site(root), reactor)(scope, receive, send)

    expected = repr(([b"app", b"where"], [b"x"])).encode() + b"http://h/app/where"
    assert expected == b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("leaves", ["client", "server"])
@on_loop
async def test_websocket(road: bool, leaves: str) -> None:
    """
    A twisted.web.websocket resource speaks with its client: text, bytes, and a close from
    either; a server that stops says that it is going away.
    """
    from twisted.web.websocket import WebSocketResource
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, TextMessage
    from wsproto.events import Request as Handshake

    lost: list[Any] = []

    class Echo:
        transport: Any

        def negotiationStarted(self, transport: Any) -> None:
            self.transport = transport

        def negotiationFinished(self) -> None: ...

        def textMessageReceived(self, text: str) -> None:
            self.transport.sendTextMessage(text.upper())

        def bytesMessageReceived(self, data: bytes) -> None:
            self.transport.sendBytesMessage(bytes(data) * 2)

        def pongReceived(self, payload: bytes) -> None: ...

        def connectionLost(self, reason: Any) -> None:
            lost.append(reason)

    class Factory:
        def buildProtocol(self, request: Request) -> Any:
            return Echo()

    root = Resource()
    root.putChild(b"ws", WebSocketResource(Factory()))
    async with serving(site(root), hot=road) as served:
        client = await served.connect()
        conn = WSConnection(ConnectionType.CLIENT)
        heard: list[Any] = []

        async def hear(kind: Any) -> Any:
            while True:
                for event in heard:
                    if isinstance(event, kind):
                        heard.remove(event)
                        return event
                data = await client.reader.read(65536)
                assert data
                conn.receive_data(data)
                heard.extend(conn.events())

        await client.send(conn.send(Handshake("127.0.0.1", "/ws")))
        await hear(AcceptConnection)
        await client.send(conn.send(TextMessage("shout")))
        assert "SHOUT" == (await hear(TextMessage)).data
        await client.send(conn.send(BytesMessage(b"ab" * 40_000)))
        size = 0
        while size < 160_000:
            size += len((await hear(BytesMessage)).data)
        status, _, _ = await (await served.connect()).get("/ws")
        assert status in (400, 426)
        if leaves == "client":
            await client.send(conn.send(CloseConnection(1000)))
            assert 1000 == (await hear(CloseConnection)).code
        else:
            served.front.stop_accepting()
            draining = asyncio.ensure_future(served.front.drain(5))
            assert 1001 == (await hear(CloseConnection)).code
            client.abort()
            assert await draining
        await until(lambda: lost)


@on_loop
async def test_upgrade_that_nobody_wants(road: bool) -> None:
    """
    An Upgrade that the application ignores is an ordinary request, and the connection goes on.
    """
    async with serving(site(Hello()), hot=road) as served:
        client = await served.connect()

        first = await client.get("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n")
        second = await client.get("/")

        assert [(200, b"hello")] * 2 == [first[::2], second[::2]]


@pytest.mark.parametrize("whole", [True, False])
@on_loop
async def test_upgrade_that_nobody_wants_has_a_body(road: bool, whole: bool) -> None:
    """
    As `curl --http2 --data` sends it. Seen to fail while the body counted as what comes behind the upgrade: the
    application got none, and the next request was a 400.
    """

    class Echo(Resource):
        isLeaf = True

        def render_POST(self, request: Request) -> bytes:
            assert request.requestHeaders.hasHeader(b"upgrade")
            said: bytes = request.content.read()  # type: ignore[attr-defined]
            return said

    said = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    async with serving(site(Echo()), hot=road) as served:
        client = await served.connect()
        for _ in range(2):
            for piece in [said] if whole else [bytes([byte]) for byte in said]:
                await client.send(piece)
                await asyncio.sleep(0)
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert b"abc" == await client.reader.readexactly(3)


@on_loop
async def test_take_over_of_the_transport() -> None:
    """
    An application that puts its own protocol on the transport gets every byte from then
    on, those in the same packet included, and hears of the end.
    """
    lost: list[Any] = []

    class Shouts:
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data.upper())

        def connectionLost(self, reason: Any) -> None:
            lost.append(reason)

    class Takes(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            transport: Any = request.channel.transport  # type: ignore[union-attr]
            request.channel.transport = None  # type: ignore[union-attr]
            protocol: Any = Shouts()
            protocol.transport = transport
            transport.protocol = protocol
            transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            return NOT_DONE_YET

    async with serving(site(Takes())) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nab")
        await client.reader.readuntil(b"\r\n\r\n")
        assert b"AB" == await client.reader.readexactly(2)
        await client.send(b"more")
        assert b"MORE" == await client.reader.readexactly(4)
        served.front.stop_accepting()
        assert await served.front.drain(5)
        assert b"" == await client.rest()
        await until(lambda: lost)


@on_loop
async def test_each_request_has_a_context_of_its_own(road: bool) -> None:
    """
    What one request puts into a context variable, the next one on the connection doesn't see,
    and its own later callbacks do (L5).
    """
    from contextvars import ContextVar

    from twisted.internet import reactor

    who: ContextVar[str] = ContextVar("who", default="nobody")

    class Says(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            before = who.get()
            who.set(request.path.decode())

            def later() -> None:
                request.write(f"{before} {who.get()}".encode())
                request.finish()

            reactor.callLater(0, later)  # type: ignore[attr-defined]
            return NOT_DONE_YET

    async with serving(site(Says()), hot=road) as served:
        client = await served.connect()
        bodies = [(await client.get(f"/{n}"))[2] for n in range(3)]

    assert [b"nobody /0", b"nobody /1", b"nobody /2"] == bodies


@on_loop
async def test_answered_before_it_is_complete() -> None:
    """
    A Request that answers as soon as its length is known, and was the connection's last one: it ends there, and
    what comes of its body fails nobody.
    """
    from twisted.logger import globalLogPublisher

    class TooLarge(Request):
        def gotLength(self, length: Any) -> None:
            super().gotLength(length)
            self.clientproto = b"HTTP/1.0"
            self.setResponseCode(413)
            self.setHeader(b"Content-Length", b"0")
            self.write(b"")
            self.finish()

    served_site = site(Hello())
    served_site.requestFactory = TooLarge
    failures: list[Any] = []

    def watch(event: Any) -> None:
        if "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(watch)
    try:
        async with serving(served_site) as served:
            client = await served.connect()
            await client.send(b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")

            assert (await client.rest()).startswith(b"HTTP/1.0 413 ")
    finally:
        globalLogPublisher.removeObserver(watch)

    assert [] == failures
