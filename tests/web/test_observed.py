"""
What is seen of legacy: by a recorder on the hot road, and by what a Request can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from bridge.parity.observe import Ending
from tests.web.served import on_loop, until


class Tape:
    """
    Keeps what a recorder is told.
    """

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.how: list[Any] = []

    def started(self, status: int, headers: Any, at: float) -> None:
        self.status, self.headers = status, list(headers)

    def wrote(self, data: bytes) -> None:
        self.body += data

    def closed(self, how: Any, at: float, error: str = "") -> None:
        self.how.append(how)


class Home:
    def answered(self, persistent: bool) -> None: ...


class Sink:
    """
    A transport that keeps what is written.
    """

    disconnecting = False

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def getPeer(self) -> Any:
        return None

    def getHost(self) -> Any:
        return None

    def resumeProducing(self) -> None: ...


def channel_on(leaf: Any, tape: Tape) -> Any:
    from twisted.web.server import Site

    from bridge.web.channel import Channel

    made = Channel(Site(leaf), Sink(), Home())
    made.recorder = tape
    return made


@on_loop
async def test_recorder_sees_the_body_without_its_chunks() -> None:
    """
    The recorder gets what the application wrote, while the client gets Twisted's chunks.
    """

    class Parts(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            request.setResponseCode(201)
            for part in (b"one", b"two"):
                request.write(part)
            request.finish()
            return NOT_DONE_YET

    tape = Tape()
    channel = channel_on(Parts(), tape)
    assert channel.begin(b"GET", b"/", b"HTTP/1.1", [(b"host", b"x")])
    channel.complete()

    assert (201, b"onetwo", [Ending.COMPLETE]) == (tape.status, tape.body, tape.how)
    assert (b"Transfer-Encoding", b"chunked") in tape.headers
    assert channel.transport.written.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@on_loop
async def test_recorder_hears_of_a_lost_client() -> None:
    """
    An answer whose client left is closed as such, once.
    """
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    class Never(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            return NOT_DONE_YET

    tape = Tape()
    channel = channel_on(Never(), tape)
    channel.begin(b"GET", b"/", b"HTTP/1.1", [])
    channel.complete()
    channel.lost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]
    channel.lost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]

    assert [Ending.LEFT] == tape.how


@on_loop
async def test_effects_and_holds() -> None:
    """
    An observed Request tells its effects, and its observation stays open while it holds it.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site

    from bridge.web.resource_app import ResourceApp

    holds: list[Callable[[], None]] = []
    told: list[Any] = []

    class Tells(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            assert not hasattr(request, "bgserverShadow")
            request.bgserverEffects("row", "tasks:1", {"a": 1})
            holds.append(request.bgserverHold())
            return b"done"

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "extensions": {"bgserver.effects": lambda *effect: told.append(effect)},
    }
    call = asyncio.ensure_future(ResourceApp(Site(Tells()), reactor)(scope, receive, send))
    await until(lambda: sent and not sent[-1].get("more_body", True))
    await asyncio.sleep(0)

    assert not call.done()
    holds[0]()
    holds[0]()
    await call
    assert [("row", "tasks:1", {"a": 1})] == told
