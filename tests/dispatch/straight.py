"""
The hot road in memory: SiteProtocol on a transport that a test holds both ends of, with a
Site whose one Resource runs the ASGI application that the test gives for legacy.

So the same stories are told of both roads: the dispatcher is called, or never is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from uvicorn.config import Config
from uvicorn.server import ServerState

from bridge.dispatch import Dispatcher
from bridge.routing import Side
from bridge.web.front import Road
from bridge.web.site_protocol import SiteProtocol


class NoSocket:
    """
    What Twisted tunes where there is a socket.
    """

    def __init__(self, client: str) -> None:
        self.client = client

    def setsockopt(self, *option: int) -> None: ...

    def getpeername(self) -> tuple[str, int]:
        return self.client, 1234

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80


class Wire(asyncio.Transport):
    """
    A connection without a network; the answers that come over it are parsed.
    """

    def __init__(self, client: str) -> None:
        super().__init__({"socket": NoSocket(client), "sockname": ("127.0.0.1", 80)})
        self.protocol: Any = None
        self.raw = b""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.over = asyncio.Event()
        self.wrote = asyncio.Event()
        self.closing = False
        self._parser = httptools.HttpResponseParser(self)

    # the server's end

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.raw += bytes(data)
        self.wrote.set()
        self._parser.feed_data(bytes(data))

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.over.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    # the parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.over.set()


class AsResource(Resource):
    """
    An ASGI application as legacy code: what the harness puts on its Request is in the scope.
    """

    isLeaf = True

    def __init__(self, app: Callable[[], Any]) -> None:
        super().__init__()
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def render(self, request: Any) -> int:
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return NOT_DONE_YET

    async def _answer(self, request: Any) -> None:
        # A Site's own headers are legacy's answer; here both sides are given applications.
        request.defaultContentType = None
        gone = asyncio.Event()
        request.notifyFinish().addErrback(lambda _: gone.set())
        read = False

        async def receive() -> Any:
            nonlocal read
            if not read:
                read = True
                return {"type": "http.request", "body": request.content.read(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if gone.is_set():
                raise OSError("the client has gone")
            if message["type"] == "http.response.start":
                request.setResponseCode(message["status"])
                for name, value in message.get("headers", ()):
                    request.setHeader(name, value)
                return
            request.write(message.get("body", b""))
            if not message.get("more_body", False):
                request.finish()

        effects = getattr(request, "bgserverEffects", None)
        release = request.bgserverHold() if effects is not None else lambda: None
        scope = {
            "type": "http",
            "method": request.method.decode(),
            "path": request.path.decode(),
            "headers": [(n.lower(), v) for n, vs in request.requestHeaders.getAllRawHeaders() for v in vs],
            "extensions": {} if effects is None else {"bgserver.effects": effects},
        }
        try:
            await self._app()(scope, receive, send)
        except Exception:
            if not gone.is_set():
                request.processingFailed(Failure())
        finally:
            release()


class Straight:
    """
    Connections to one dispatcher, whose legacy side never hears of ASGI.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.site = Site(AsResource(lambda: dispatcher.sides[Side.LEGACY]), reactor=Clock())
        self._state = ServerState()
        self._config = Config(
            dispatcher, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False
        )
        self._config.load()

        def decide(method: bytes, raw_path: bytes, asks: Any) -> Any:
            return dispatcher.table.value.decide(method, raw_path, asks)

        self._road = Road(self.site, decide, dispatcher.watch)

    def connect(self, client: str = "192.0.2.1") -> Wire:
        """
        A new connection.
        """
        wire = Wire(client)
        loop = asyncio.get_running_loop()
        wire.protocol = SiteProtocol(self._config, self._state, {}, loop, road=self._road, look=False)
        wire.protocol.connection_made(wire)
        return wire

    async def messages(
        self, method: str, path: str, body: list[bytes], headers: list[tuple[bytes, bytes]], client: str
    ) -> list[dict[str, Any]]:
        """
        One request on a connection of its own, and its answer as ASGI would say it.
        """
        wire = self.connect(client)
        given = {name for name, _ in headers}
        if any(body) and not given & {b"content-length", b"transfer-encoding"}:
            headers = [*headers, (b"content-length", b"%d" % sum(map(len, body)))]
        head = f"{method} {path} HTTP/1.1\r\n".encode()
        head += b"".join(b"%s: %s\r\n" % header for header in headers)
        try:
            wire.protocol.data_received(head + b"\r\n")
            for part in filter(None, body):
                wire.protocol.data_received(part)
            await wire.over.wait()
        finally:
            wire.close()
        start = {"type": "http.response.start", "status": wire.status, "headers": wire.headers}
        return [start, *({"type": "http.response.body", "body": part} for part in wire.parts)]
