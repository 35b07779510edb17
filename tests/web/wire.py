"""
Raw requests, and what a client sees of a native Site and of ours when it sends them.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.web.served import Served, serving

_DATE = re.compile(rb"(?i)(\r\ndate: )[^\r]+")


class Echo(Resource):
    """
    Answers with everything that it was told.
    """

    isLeaf = True

    def render(self, request: Request) -> bytes:
        assert request.content is not None
        told = [
            request.method,
            request.uri,
            request.path,
            request.clientproto,
            request.prepath,
            request.postpath,
            sorted((request.args or {}).items()),
            sorted(request.received_cookies.items()),
            list(request.requestHeaders.getAllRawHeaders()),
            request.content.read(),
        ]
        return "\n".join(repr(part) for part in told).encode()


class Chunks(Resource):
    """
    Answers without a length.
    """

    isLeaf = True

    def render_GET(self, request: Request) -> int:
        from twisted.web.server import NOT_DONE_YET

        for part in (b"one", b"", b"two"):
            request.write(part)
        request.finish()
        return NOT_DONE_YET


class Status(Resource):
    """
    Answers with a status and nothing else that was asked for.
    """

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        code = int(request.args[b"code"][0])  # type: ignore[index]
        reason = (request.args or {}).get(b"reason")
        request.setResponseCode(code, reason[0] if reason else None)
        request.responseHeaders.addRawHeader(b"X-Twice", b"1")
        request.responseHeaders.addRawHeader(b"X-Twice", b"2")
        request.addCookie(b"a", b"b")
        return b"" if code in (204, 304) else b"said"


class Fails(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        raise ValueError("on purpose")


class Raw(Resource):
    """
    Answers nothing that needs a length.
    """

    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        return b"%d" % len(request.content.read())


def tree() -> Any:
    """
    One tree, so that both servers say the same.
    """
    from twisted.web.server import Site

    root = Resource()
    for name, child in (
        (b"echo", Echo()),
        (b"chunks", Chunks()),
        (b"status", Status()),
        (b"fails", Fails()),
        (b"raw", Raw()),
    ):
        root.putChild(name, child)
    return Site(root)


class Unjudged:
    """
    Hears of what was shadowed.
    """

    def __init__(self) -> None:
        self.trials = 0

    def judge(self, trial: Any) -> None:
        self.trials += 1

    def doubts(self, trial: Any) -> bool:
        return False

    def dropped(self, decision: Any, why: Any) -> None: ...

    def answered(self, decision: Any, status: int, seconds: float) -> None: ...


async def quiet(scope: Any, receive: Any, send: Any) -> None:
    """
    The modern side of what is shadowed here.
    """
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def both(stage: Stage = Stage.LEGACY) -> AsyncIterator[tuple[int, Served, Unjudged]]:
    """
    A native Site's port, and ours on the hot road with all its routes at a stage, both on
    the bridged reactor; and who judges there.
    """
    from twisted.internet import reactor

    from bridge.loop import as_awaitable
    from bridge.web.resource_app import ResourceApp

    site, judge = tree(), Unjudged()
    sides = {Side.LEGACY: ResourceApp(site, reactor), Side.MODERN: quiet}
    shadows = ShadowQueue(sides, judge)
    default = Route(None, stage, effects=Effects.NONE)
    dispatcher = Dispatcher(Cell(RouteTable.build([], default)), sides, shadows)
    decide = dispatcher.table.value.decide
    native = reactor.listenTCP(0, tree(), interface="127.0.0.1")  # type: ignore[attr-defined]
    try:
        async with serving(site, dispatcher, decide, watch=dispatcher.watch) as served:
            yield native.getHost().port, served, judge
    finally:
        await shadows.close()
        await as_awaitable(native.stopListening())


async def say(port: int, pieces: Iterable[bytes]) -> bytes:
    """
    Send the pieces, say that there is no more, and hear the server out.
    """
    loop = asyncio.get_running_loop()
    # Not a stream: what was heard before a reset must not be lost with it.
    client = socket.socket()
    client.setblocking(False)
    # Data that Nagle held back would come together with the end, and Twisted drops what it
    # has not written yet when it hears of that.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    heard = b""
    try:
        await loop.sock_connect(client, ("127.0.0.1", port))
        with suppress(OSError):
            for piece in pieces:
                await loop.sock_sendall(client, piece)
                for _ in range(5):
                    await asyncio.sleep(0)
            client.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while data := await loop.sock_recv(client, 65536):
                heard += data
    finally:
        client.close()
    return _DATE.sub(rb"\1-", heard)


def _of(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


CASES: dict[str, bytes] = {
    "plain": _of("GET /echo HTTP/1.1", "Host: x"),
    "query": _of("GET /echo?a=1&a=2&b=%C3%A9&c HTTP/1.1", "Host: x"),
    "escapes": _of("GET /echo/a%2Fb/%C3%A9//c/ HTTP/1.1", "Host: x"),
    "dots": _of("GET /echo/../x/./y HTTP/1.1", "Host: x"),
    "absolute": _of("GET http://x/echo?a=1 HTTP/1.1", "Host: y"),
    "options star": _of("OPTIONS * HTTP/1.1", "Host: x"),
    "get star": _of("GET * HTTP/1.1", "Host: x"),
    "no host": _of("GET /echo HTTP/1.1"),
    "two hosts": _of("GET /echo HTTP/1.1", "Host: x", "Host: y"),
    "1.0": _of("GET /echo HTTP/1.0"),
    "1.0 keep-alive": _of("GET /echo HTTP/1.0", "Connection: keep-alive"),
    "1.0 chunks": _of("GET /chunks HTTP/1.0"),
    "close": _of("GET /echo HTTP/1.1", "Host: x", "Connection: close"),
    "close among others": _of("GET /echo HTTP/1.1", "Host: x", "Connection: foo, close"),
    "close upper": _of("GET /echo HTTP/1.1", "Host: x", "Connection: CLOSE"),
    "head": _of("HEAD /echo HTTP/1.1", "Host: x"),
    "head chunks": _of("HEAD /chunks HTTP/1.1", "Host: x"),
    "head of nothing": _of("HEAD /nothing HTTP/1.1", "Host: x"),
    "chunks": _of("GET /chunks HTTP/1.1", "Host: x"),
    "not found": _of("GET /nothing HTTP/1.1", "Host: x"),
    "wrong method": _of("POST /chunks HTTP/1.1", "Host: x", "Content-Length: 0"),
    "put": _of("PUT /chunks HTTP/1.1", "Host: x", "Content-Length: 2", body=b"ab"),
    "delete": _of("DELETE /chunks HTTP/1.1", "Host: x"),
    "options": _of("OPTIONS /chunks HTTP/1.1", "Host: x"),
    "patch": _of("PATCH /echo HTTP/1.1", "Host: x", "Content-Length: 1", body=b"p"),
    "trace": _of("TRACE /echo HTTP/1.1", "Host: x"),
    "connect": _of("CONNECT example.org:443 HTTP/1.1", "Host: x"),
    "unknown method": _of("BREW /echo HTTP/1.1", "Host: x"),
    "lower-case method": _of("get /echo HTTP/1.1", "Host: x"),
    "dav method": _of("PROPFIND /echo HTTP/1.1", "Host: x"),
    "source method": _of("SOURCE /echo HTTP/1.1", "Host: x"),
    "204": _of("GET /status?code=204 HTTP/1.1", "Host: x"),
    "304": _of("GET /status?code=304 HTTP/1.1", "Host: x"),
    "205": _of("GET /status?code=205 HTTP/1.1", "Host: x"),
    "799": _of("GET /status?code=799 HTTP/1.1", "Host: x"),
    "reason": _of("GET /status?code=404&reason=Nope HTTP/1.1", "Host: x"),
    "failure": _of("GET /fails HTTP/1.1", "Host: x"),
    "body": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 5", body=b"hello"),
    "empty body": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 0"),
    "no length": _of("POST /echo HTTP/1.1", "Host: x"),
    "get with body": _of("GET /echo HTTP/1.1", "Host: x", "Content-Length: 3", body=b"abc"),
    "short body": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 9", body=b"short"),
    "chunked": _of(
        "POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ),
    "chunk extension": _of(
        "POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0\r\n\r\n"
    ),
    "trailers": _of(
        "POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nX-T: 1\r\n\r\n"
    ),
    "upper-case chunked": _of(
        "POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: Chunked", body=b"1\r\na\r\n0\r\n\r\n"
    ),
    "bad chunk": _of("POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n"),
    "chunk without end": _of("POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", body=b"3\r\nabcdef\r\n"),
    "chunked on 1.0": _of("POST /echo HTTP/1.0", "Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\n\r\n"),
    "identity": _of("POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: identity", "Content-Length: 1", body=b"a"),
    "gzip coding": _of("POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: gzip", body=b"a"),
    "gzip, chunked": _of("POST /echo HTTP/1.1", "Host: x", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "length and coding": _of(
        "POST /echo HTTP/1.1",
        "Host: x",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        body=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "coding and length": _of(
        "POST /echo HTTP/1.1",
        "Host: x",
        "Transfer-Encoding: chunked",
        "Content-Length: 3",
        body=b"3\r\nabc\r\n0\r\n\r\n"
    ),
    "two lengths": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 1", "Content-Length: 1", body=b"a"),
    "two different lengths": _of(
        "POST /echo HTTP/1.1", "Host: x", "Content-Length: 1", "Content-Length: 2", body=b"ab"
    ),
    "negative length": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: -1"),
    "plus length": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: +1", body=b"a"),
    "worded length": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: one"),
    "empty length": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: "),
    "huge length": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 99999999999999999999999"),
    "form": _of(
        "POST /echo?q=1 HTTP/1.1",
        "Host: x",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Length: 7",
        body=b"a=1&b=2",
    ),
    "multipart": _of(
        "POST /echo HTTP/1.1",
        "Host: x",
        "Content-Type: multipart/form-data; boundary=B",
        "Content-Length: 68",
        body=b'--B\r\nContent-Disposition: form-data; name="f"\r\n\r\nvalue\r\n--B--\r\n    ',
    ),
    "broken multipart": _of(
        "POST /echo HTTP/1.1", "Host: x", "Content-Type: multipart/form-data", "Content-Length: 3", body=b"abc"
    ),
    "expect": _of("POST /echo HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 2", body=b"ab"),
    "expect on 1.0": _of("POST /echo HTTP/1.0", "Expect: 100-continue", "Content-Length: 2", body=b"ab"),
    "expect something": _of("POST /echo HTTP/1.1", "Host: x", "Expect: miracles", "Content-Length: 2", body=b"ab"),
    "duplicate headers": _of("GET /echo HTTP/1.1", "Host: x", "X-A: 1", "x-a: 2", "X-B: 3", "X-a: 4"),
    "odd header case": _of("GET /echo HTTP/1.1", "hOST: x", "dnt: 1", "te: x", "etag: y", "x-xss-protection: 0"),
    "cookies": _of("GET /echo HTTP/1.1", "Host: x", "Cookie: a=1; b=2", "Cookie: c=3"),
    "empty header": _of("GET /echo HTTP/1.1", "Host: x", "X-Empty:", "X-Blank:   "),
    "spaces around value": _of("GET /echo HTTP/1.1", "Host:x", "X-A: \t a b \t "),
    "high bytes": _of("GET /echo HTTP/1.1", "Host: x", "X-A: \xe9\xff"),
    "high bytes in path": _of("GET /echo/\xc3\xa9 HTTP/1.1", "Host: x"),
    "highest bytes in path": _of("GET /echo/\xff HTTP/1.1", "Host: x"),
    "space in header name": _of("GET /echo HTTP/1.1", "Host: x", "X A: 1"),
    "space before colon": _of("GET /echo HTTP/1.1", "Host: x", "X-A : 1"),
    "no colon": _of("GET /echo HTTP/1.1", "Host: x", "nonsense"),
    "empty name": _of("GET /echo HTTP/1.1", "Host: x", ": 1"),
    "nul in value": _of("GET /echo HTTP/1.1", "Host: x", "X-A: a\x00b"),
    "control in value": _of("GET /echo HTTP/1.1", "Host: x", "X-A: a\x01b"),
    "cr in value": b"GET /echo HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n",
    "folded": _of("GET /echo HTTP/1.1", "Host: x", "X-A: 1", "  2", "\t3"),
    "folded at once": _of("GET /echo HTTP/1.1", " X-A: 1"),
    "bare lf": b"GET /echo HTTP/1.1\nHost: x\n\n",
    "mixed lf": b"GET /echo HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n",
    "empty line first": b"\r\n" + _of("GET /echo HTTP/1.1", "Host: x"),
    "two empty lines first": b"\r\n\r\n" + _of("GET /echo HTTP/1.1", "Host: x"),
    "0.9": b"GET /echo\r\n\r\n",
    "2.0": _of("GET /echo HTTP/2.0", "Host: x"),
    "1.2": _of("GET /echo HTTP/1.2", "Host: x"),
    "lower-case http": _of("GET /echo http/1.1", "Host: x"),
    "two spaces": _of("GET  /echo HTTP/1.1", "Host: x"),
    "space at the end": _of("GET /echo HTTP/1.1 ", "Host: x"),
    "no path": _of("GET HTTP/1.1", "Host: x"),
    "space in path": _of("GET /ec ho HTTP/1.1", "Host: x"),
    "path without slash": _of("GET echo HTTP/1.1", "Host: x"),
    "fragment": _of("GET /echo#top HTTP/1.1", "Host: x"),
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nonsense": b"\x00\x01\x02\r\n\r\n",
    "nothing": b"",
    "half a head": b"GET /echo HTTP/1.1\r\nHos",
    "long path": _of("GET /echo/" + "p" * 9000 + " HTTP/1.1", "Host: x"),
    "too long path": _of("GET /echo/" + "p" * 20000 + " HTTP/1.1", "Host: x"),
    "long header": _of("GET /echo HTTP/1.1", "Host: x", "X-A: " + "a" * 9000),
    "too long header": _of("GET /echo HTTP/1.1", "Host: x", "X-A: " + "a" * 20000),
    "many headers": _of("GET /echo HTTP/1.1", "Host: x", *(f"X-{n}: {n}" for n in range(400))),
    "too many headers": _of("GET /echo HTTP/1.1", "Host: x", *(f"X-{n}: {n}" for n in range(600))),
    "upgrade": _of("GET /echo HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c"),
    "upgrade and more": _of("GET /echo HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c")
    + _of("GET /echo/2 HTTP/1.1", "Host: x"),
    "upgrade with a body": _of(
        "POST /echo HTTP/1.1", "Host: x", "Connection: Upgrade", "upgrade: h2c", "Content-Length: 3", body=b"abc"
    )
    + _of("GET /echo/2 HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: h2c"),
    "upgrade with chunks": _of(
        "POST /echo HTTP/1.1",
        "Connection: Upgrade, close",
        "X-A: \xe9",
        "Transfer-Encoding: chunked",
        "Upgrade: websocket",
        body=b"3\r\nabc\r\n0\r\n\r\n",
    ),
    "upgrade with a broken body": _of(
        "POST /echo HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked", body=b"x\r\n"
    ),
    "upgrade with two lengths": _of(
        "POST /echo HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", *["Content-Length: 1"] * 2, body=b"x"
    ),
    "upgrade of nothing": _of("GET /echo HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 0"),
    "pipelined": _of("GET /echo/1 HTTP/1.1", "Host: x")
    + _of("POST /echo/2 HTTP/1.1", "Host: x", "Content-Length: 2", body=b"ab")
    + _of("GET /chunks HTTP/1.1", "Host: x"),
    "line end between": _of("POST /echo HTTP/1.1", "Host: x", "Content-Length: 1", body=b"a\r\n")
    + _of("GET /echo/2 HTTP/1.1", "Host: x"),
    "after close": _of("GET /echo HTTP/1.1", "Host: x", "Connection: close") + _of("GET /echo/2 HTTP/1.1", "Host: x"),
    "after 1.0": _of("GET /echo HTTP/1.0") + _of("GET /echo/2 HTTP/1.0"),
    "bad after good": _of("GET /echo HTTP/1.1", "Host: x") + b"BAD\r\n\r\n",
    "good after bad": b"BAD\r\n\r\n" + _of("GET /echo HTTP/1.1", "Host: x"),
}
