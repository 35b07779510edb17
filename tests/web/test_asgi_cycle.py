"""
What a client of the ASGI road hears, against uvicorn's own protocol: the same bytes, whatever the application does.

The applications below are asked by the same raw requests, once through uvicorn's protocol and once through ours, over
real sockets. Seen to fail: without the flush in `AsgiCycle._cut` the heads of broken answers are missing; without the
check of `_expected` a body that is too long goes out; with the names of `field` left as they are, their case differs.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.routing import Route, RouteTable, Stage
from bridge.web.front import Road
from bridge.web.site_protocol import SiteProtocol
from tests.web.served import on_loop

GET = b"GET /path?q=1 HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabcdef"
NEWEST = tuple(int(part) for part in uvicorn.__version__.split(".")[:2]) >= (0, 54)


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return (b"Content-Length", b"%d" % size)


def saying(*messages: Any) -> Any:
    """
    An application that sends this, and asks nothing.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/last":
            await send(start(length(4)))
            await send(body(b"last"))
            return
        for message in messages:
            if message is None:
                await asyncio.sleep(0)
            else:
                await send(message)

    return app


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """
    Says what it was asked and what it received, one event after the other, and what comes behind the answer.
    """
    events = []
    while not events or events[-1].get("more_body"):
        events.append(await receive())
    told = {name: scope[name] for name in ("method", "path", "raw_path", "query_string", "http_version", "root_path")}
    whole = b"".join(event.get("body", b"") for event in events)
    text = repr((told, sorted(scope["headers"]), [event["type"] for event in events][-1], whole)).encode()
    await send(start(length(len(text))))
    await send(body(text))
    assert {"type": "http.disconnect"} == await receive()


async def raises_first(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("on purpose")


async def raises_late(scope: Any, receive: Any, send: Any) -> None:
    await send(start(length(5)))
    raise RuntimeError("on purpose")


async def returns(scope: Any, receive: Any, send: Any) -> str:
    await send(start(length(0)))
    await send(body(b""))
    return "something"


async def catches(scope: Any, receive: Any, send: Any) -> None:
    """
    Goes on after it was told that its body is too long.
    """
    await send(start(length(2)))
    try:
        await send(body(b"far too long"))
    except RuntimeError:
        await send(body(b"ok"))


CASES: dict[str, tuple[Any, bytes]] = {
    "length": (saying(start(length(5), (b"X-Name", b"Value")), body(b"hello")), GET + LAST),
    "chunked": (saying(start(), body(b"hello")), GET + LAST),
    "chunks": (saying(start(), body(b"one", True), body(b"", True), None, body(b"two", True), body(b"")), GET + LAST),
    "empty first": (saying(start(length(3)), body(b"", True), body(b"one")), GET + LAST),
    "large": (saying(start(length(1 << 20)), body(b"x" * (1 << 20))), GET + LAST),
    "large chunks": (saying(start(), body(b"x" * 70_000, True), body(b"y" * 70_000)), GET + LAST),
    "own coding": (saying(start((b"transfer-encoding", b"chunked")), body(b"hello")), GET + LAST),
    "both framings": (saying(start(length(5), (b"transfer-encoding", b"chunked")), body(b"hello")), GET + LAST),
    "head": (saying(start(length(5)), body(b"hello")), GET.replace(b"GET", b"HEAD") + LAST),
    "head without length": (saying(start(), body(b"hello")), GET.replace(b"GET", b"HEAD") + LAST),
    "no content": (saying(start(status=204), body(b"")), GET + LAST),
    "not modified": (saying(start((b"etag", b'"1"'), status=304), body(b"")), GET + LAST),
    "closes": (saying(start(length(5), (b"Connection", b"x, Close")), body(b"hello")), GET + LAST),
    "asked to close": (
        saying(start(length(5)), body(b"hello")),
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    ),
    "1.0": (saying(start(length(5)), body(b"hello")), GET.replace(b"HTTP/1.1", b"HTTP/1.0")),
    "1.0 that stays": (
        saying(start(length(5)), body(b"hello")),
        GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
    ),
    "short": (saying(start(length(9)), body(b"hello")), GET),
    "long": (saying(start(length(2)), body(b"hello")), GET),
    "long and caught": (catches, GET + LAST),
    "body first": (saying(body(b"hello")), GET),
    "started twice": (saying(start(length(5)), start(length(5))), GET),
    "after the end": (saying(start(length(5)), body(b"hello"), body(b"more")), GET + LAST),
    "nothing": (saying(), GET),
    "no end": (saying(start(length(5))), GET),
    "no end of chunks": (saying(start(), body(b"part", True)), GET),
    "bad name": (saying(start((b"x y", b"z"), length(0)), body(b"")), GET),
    "bad value": (saying(start((b"x", b"a\nb"), length(0)), body(b"")), GET),
    "no such status": (saying(start(length(0), status=799), body(b"")), GET),
    "raises": (raises_first, GET),
    "raises late": (raises_late, GET),
    "returns": (returns, GET + LAST),
    "receives": (echo, GET + POST + LAST),
    "receives chunks": (
        echo,
        b"POST /%C3%A4/%2F?x=%20 HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n" + LAST,
    ),
    "expects": (echo, POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") + LAST),
    "expects and isn't asked": (
        saying(start(length(0)), body(b"")),
        POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") + LAST,
    ),
    "absolute": (echo, GET.replace(b"/path?q=1", b"http://other/path?q=1") + LAST),
    "fragment": (echo, GET.replace(b"/path?q=1", b"/path?q=1#part") + LAST),
    "two slashes": (echo, GET.replace(b"/path?q=1", b"//path//?") + LAST),
    "other upgrade": (echo, GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n")),
}


@pytest.mark.skipif(not NEWEST, reason="older releases frame answers another way")
@pytest.mark.parametrize("root_path", ["", "/below"])
@pytest.mark.parametrize("case", CASES)
@on_loop
async def test_same_bytes(case: str, root_path: str) -> None:
    """
    Status, headers, framing, and what becomes of the connection, are uvicorn's.
    """
    app, asked = CASES[case]

    theirs = await heard(functools.partial(HttpToolsProtocol), app, asked, root_path)
    ours = await heard(functools.partial(SiteProtocol, road=all_modern(), look=False), app, asked, root_path)

    assert theirs == ours
    assert theirs.startswith(b"HTTP/1.1") or case in ("bad name", "bad value", "no such status")


@on_loop
async def test_trailers_are_no_headers() -> None:
    """
    What comes behind a body of chunks is in nobody's scope. uvicorn's protocol has it among the headers.
    """
    asked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Late: 1\r\n\r\n"

    said = await heard(functools.partial(SiteProtocol, road=all_modern(), look=False), echo, asked + LAST)

    assert b"abc" in said
    assert b"x-late" not in said


@on_loop
async def test_head_and_body_leave_together() -> None:
    """
    An answer whose body follows at once is one write, so that it is one packet; uvicorn's are two.
    """
    app = saying(start(length(5)), body(b"hello"))
    writes: list[bytes] = []

    await heard(functools.partial(Counted, writes, road=all_modern(), look=False), app, LAST.replace(b"last", b""))

    assert 1 == len(writes)


@on_loop
async def test_head_does_not_wait_for_a_slow_body() -> None:
    """
    The client has the head before the application goes on. Without the flush in `_start` this never ends.
    """
    goes_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(length(5)))
        await goes_on.wait()
        await send(body(b"hello"))

    async with with_server(functools.partial(SiteProtocol, road=all_modern(), look=False), app, "") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)

        head = await reader.readuntil(b"\r\n\r\n")
        goes_on.set()

        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"hello" == await reader.read()
        writer.close()


@on_loop
async def test_client_that_leaves_is_told_of_once_waited_for() -> None:
    """
    `receive` ends with http.disconnect when the client goes, whoever waits, and however many.
    """
    told: list[Any] = []
    waiting = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        several = asyncio.gather(receive(), receive())
        waiting.set()
        told.extend(await several)
        told.append(await receive())
        await send(start(length(0)))

    async with with_server(functools.partial(SiteProtocol, road=all_modern(), look=False), app, "") as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await waiting.wait()
        writer.close()
        while len(told) < 3:  # noqa: ASYNC110 - the server knows nothing of this test's events
            await asyncio.sleep(0)

    assert [{"type": "http.disconnect"}] * 3 == told


class Counted(SiteProtocol):
    """
    Notes what is written.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, writes: list[bytes], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writes = writes

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Noted(transport, self.writes))  # type: ignore[arg-type]


class _Noted:
    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def all_modern() -> Road:
    """
    A road beside which there is a Site that answers nothing.
    """
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    table = RouteTable.build([], default=Route(None, stage=Stage.MODERN))
    return Road(Site(Resource()), table.decide)


class with_server:
    """
    One protocol on a free port, as uvicorn sets it up.
    """

    def __init__(self, protocol: Callable[..., Any], app: Any, root_path: str) -> None:
        self._config = Config(
            app, log_config=None, access_log=False, lifespan="off", interface="asgi3", root_path=root_path
        )
        self._config.load()
        self._protocol = protocol
        self._state = ServerState()
        self._state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]

    async def __aenter__(self) -> int:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: self._protocol(self._config, self._state, {}, _loop=loop), "127.0.0.1", 0
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.close()
        while self._state.connections or self._state.tasks:  # noqa: ASYNC110 - nobody tells when they are gone
            await asyncio.sleep(0)


async def heard(protocol: Callable[..., Any], app: Any, asked: bytes, root_path: str = "") -> bytes:
    """
    All that a client hears which says this and then waits for the end.
    """
    async with with_server(protocol, app, root_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        # Each of these answers is the connection's last, or is followed by one that is.
        said = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        return said
