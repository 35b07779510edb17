"""
What holds on both roads: a Site straight on uvicorn's transport, and behind ASGI.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from bridge.routing import Route, RouteTable, Side, Stage
from tests.web.served import Dispatch, on_loop, serving, until


class Says(Resource):
    """
    Answers every method with what a function makes of the request.
    """

    isLeaf = True

    def __init__(self, say: Any) -> None:
        super().__init__()
        self.say = say

    def render(self, request: Request) -> Any:
        return self.say(request)


def site_of(say: Any, **options: Any) -> Any:
    from twisted.web.server import Site

    return Site(Says(say), **options)


@on_loop
async def test_answer(road: bool) -> None:
    """
    A rendered body comes with Twisted's own headers.
    """
    async with serving(site_of(lambda request: b"hello"), hot=road) as served:
        client = await served.connect()

        status, headers, body = await client.get("/")

        assert 200 == status
        assert b"hello" == body
        assert "5" == headers["content-length"]
        assert "text/html" == headers["content-type"]
        assert headers["server"].startswith("TwistedWeb/")


@on_loop
async def test_site_refuses_connections() -> None:
    """
    A Site whose `buildProtocol` gives None has that connection closed, as under Twisted; one that raises, too. Without
    `admits` a list of addresses kept there was passed over silently.
    """
    from twisted.web.server import Site

    asked: list[Any] = []

    class Choosy(Site):
        def buildProtocol(self, addr: Any) -> Any:
            asked.append(addr.host)
            if len(asked) == 1:
                return None
            if len(asked) == 2:
                raise RuntimeError("on purpose")
            return super().buildProtocol(addr)

    async with serving(Choosy(Says(lambda request: b"hello"))) as served:
        refused = [await (await served.connect()).rest() for _ in range(2)]
        status, _, body = await (await served.connect()).get("/")

    assert [b"", b""] == refused
    assert (200, b"hello") == (status, body)
    assert ["127.0.0.1"] * 3 == asked


@on_loop
async def test_one_date(road: bool) -> None:
    """
    Neither road says the date twice (W10). Without ADDED_HEADERS the ASGI road did.
    """
    async with serving(site_of(lambda request: b""), hot=road) as served:
        said = await served.exchange(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        assert 1 == said.lower().count(b"\r\ndate: ")
        assert 1 == said.lower().count(b"\r\nserver: ")


@on_loop
async def test_escaped_slash_stays_in_its_segment(road: bool) -> None:
    """
    postpath keeps a/b for %2F (W5). Built from ASGI's path it came as two segments.
    """
    async with serving(site_of(lambda request: repr(request.postpath).encode()), hot=road) as served:
        client = await served.connect()

        _, _, body = await client.get("/x%2Fy/%C3%A9/")

        assert repr([b"x/y", b"\xc3\xa9", b""]).encode() == body


@on_loop
async def test_form(road: bool) -> None:
    """
    The query's and the form's arguments are merged by Twisted's own code.
    """

    def say(request: Request) -> bytes:
        return repr(sorted(request.args.items())).encode()  # type: ignore[union-attr]

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()
        await client.send(
            b"POST /?q=1&q=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=b&c=%"
        )

        _, _, body = await client.answer()

        assert repr([(b"a", [b"b"]), (b"c", [b"%"]), (b"q", [b"1", b"2"])]).encode() == body


@on_loop
async def test_body_is_spooled_by_the_site(road: bool) -> None:
    """
    getContentFile of the Site gets the declared length, None for chunks (W3).
    """
    lengths = []
    site = site_of(lambda request: request.content.read())

    def get_content_file(length: int | None) -> Any:
        from io import BytesIO

        lengths.append(length)
        return BytesIO()

    site.getContentFile = get_content_file
    async with serving(site, hot=road) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        _, _, first = await client.answer()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n")
        _, _, second = await client.answer()

        assert [b"abc", b"xyz"] == [first, second]
        assert [3, None] == lengths


@on_loop
async def test_head_is_faked_from_get(road: bool) -> None:
    """
    A Resource with render_GET alone answers HEAD with GET's length and no body.
    """
    from twisted.web.server import Site

    class OnlyGet(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return b"four"

        render_HEAD: Any = None

    root = OnlyGet()
    async with serving(Site(root), hot=road) as served:
        said = await served.exchange(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        head, _, body = said.partition(b"\r\n\r\n")
        assert b"content-length: 4" in head.lower()
        assert b"" == body


@on_loop
async def test_later_answer(road: bool) -> None:
    """
    NOT_DONE_YET, and the answer when it is there.
    """
    waiting: list[Request] = []

    def say(request: Request) -> int:
        waiting.append(request)
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: waiting)
        waiting[0].write(b"at ")
        waiting[0].write(b"last")
        waiting[0].finish()

        assert (200, b"at last") == (await client.answer())[::2]


@on_loop
async def test_headers_without_a_body_do_not_wait(road: bool) -> None:
    """
    write(b"") sends the headers now, though the first piece of the body comes later.
    """
    waiting: list[Request] = []

    def say(request: Request) -> int:
        request.write(b"")
        waiting.append(request)
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        head = await client.reader.readuntil(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        waiting[0].finish()


@on_loop
async def test_disconnect_is_told_at_once(road: bool) -> None:
    """
    notifyFinish fails as soon as the client has gone, with nothing written (W1).
    """
    gone: Deferred[Any] = Deferred()
    waiting: list[Request] = []

    def say(request: Request) -> int:
        request.notifyFinish().addErrback(gone.callback)
        waiting.append(request)
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: waiting)
        client.abort()
        await until(lambda: gone.called)

        assert isinstance(gone.result, Failure)
        gone.addErrback(lambda failure: None)
        assert waiting[0]._disconnected
        assert waiting[0].channel is None


@on_loop
async def test_slow_reader_pauses_a_push_producer(road: bool) -> None:
    """
    Who doesn't read is not written to without end (W2): the producer is paused.
    """
    made = 0
    paused = asyncio.Event()

    class Endless:
        def __init__(self, request: Request) -> None:
            self.request = request
            self.running = True

        def resumeProducing(self) -> None:
            self.running = True
            asyncio.get_running_loop().call_soon(self.produce)

        def pauseProducing(self) -> None:
            self.running = False
            paused.set()

        def stopProducing(self) -> None:
            self.running = False

        def produce(self) -> None:
            nonlocal made
            if self.running and made < 400_000_000:
                made += 65536
                self.request.write(b"x" * 65536)
                asyncio.get_running_loop().call_soon(self.produce)

    def say(request: Request) -> int:
        producer = Endless(request)
        request.registerProducer(producer, True)
        producer.resumeProducing()
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await paused.wait()

        assert made < 32_000_000
        client.abort()


@on_loop
async def test_pull_producer(road: bool) -> None:
    """
    A pull producer is asked until it has no more.
    """

    class Counted:
        def __init__(self, request: Request) -> None:
            self.request = request
            self.left = 50

        def resumeProducing(self) -> None:
            self.left -= 1
            self.request.write(b"y" * 10_000)
            if not self.left:
                self.request.unregisterProducer()
                self.request.finish()

        def stopProducing(self) -> None: ...

    def say(request: Request) -> int:
        request.registerProducer(Counted(request), False)
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        client = await served.connect()

        _, _, body = await client.get("/")

        assert 500_000 == len(body)


@on_loop
async def test_pipelined_requests_keep_their_order() -> None:
    """
    Requests that alternate between the stacks are answered as they were asked, though
    the first of them is the last to be ready.
    """
    waiting: list[Request] = []

    def say(request: Request) -> Any:
        if request.path == b"/slow":
            waiting.append(request)
            return NOT_DONE_YET
        return b"legacy " + request.path

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        body = b"modern " + scope["raw_path"]
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    table = RouteTable.build([Route("GET /new/{x}", stage=Stage.MODERN)])
    dispatch = Dispatch(table, {Side.MODERN: modern})
    async with serving(site_of(say), dispatch, dispatch.decide) as served:
        client = await served.connect()
        paths = ["/slow", "/new/1", "/a", "/new/2", "/new/3", "/b"]
        await client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        await until(lambda: waiting)
        waiting[0].write(b"slow")
        waiting[0].finish()
        bodies = [(await client.answer())[2] for _ in paths]

        assert [
            b"slow",
            b"modern /new/1",
            b"legacy /a",
            b"modern /new/2",
            b"modern /new/3",
            b"legacy /b",
        ] == bodies
        assert 6 == served.front.state.total_requests


@on_loop
async def test_a_thousand_pipelined_requests() -> None:
    """
    A long line behind a slow answer is worked off in a loop, not by recursion.
    """
    waiting: list[Request] = []

    def say(request: Request) -> Any:
        if request.path == b"/slow":
            waiting.append(request)
            return NOT_DONE_YET
        return request.path

    async with serving(site_of(say)) as served:
        client = await served.connect()
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        sent = b"".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for n in range(400))
        await client.send(sent)
        await until(lambda: waiting)
        waiting[0].finish()
        await client.answer()

        assert [f"/{n}".encode() for n in range(400)] == [(await client.answer())[2] for n in range(400)]


@on_loop
async def test_malformed_request_waits_for_its_turn() -> None:
    """
    The 400 of a pipelined request doesn't overtake the answer before it.
    """
    waiting: list[Request] = []

    def say(request: Request) -> int:
        waiting.append(request)
        return NOT_DONE_YET

    async with serving(site_of(say)) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x00\x01 nonsense\r\n\r\n")
        await until(lambda: waiting)
        waiting[0].write(b"first")
        waiting[0].finish()

        said = await client.rest()

        assert said.index(b"first") < said.index(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@on_loop
async def test_contradicting_lengths_are_refused() -> None:
    """
    Content-Length with Transfer-Encoding is a 400 on both sides (W4): uvicorn's own
    road answered 200.
    """

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"smuggled"})

    table = RouteTable.build([Route("POST /new", stage=Stage.MODERN)])
    dispatch = Dispatch(table, {Side.MODERN: modern})
    async with serving(site_of(lambda request: b"old"), dispatch, dispatch.decide) as served:
        for path in (b"/new", b"/old"):
            said = await served.exchange(
                b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            )

            assert b"HTTP/1.1 400 Bad Request\r\n\r\n" == said


@on_loop
async def test_drain_waits_for_what_is_owed(road: bool) -> None:
    """
    A request that was accepted is answered while the server stops; idle connections
    are closed at once.
    """
    waiting: list[Request] = []

    def say(request: Request) -> int:
        waiting.append(request)
        return NOT_DONE_YET

    async with serving(site_of(say), hot=road) as served:
        idle = await served.connect()
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: waiting)
        served.front.stop_accepting()
        draining = asyncio.ensure_future(served.front.drain(5))

        assert b"" == await idle.rest()
        assert not draining.done()
        waiting[0].write(b"owed")
        waiting[0].finish()
        assert b"owed" in await client.rest()
        assert await draining


@on_loop
async def test_idle_connection_times_out() -> None:
    """
    Site.timeOut closes a connection on which nothing comes, before and after an answer.
    """
    async with serving(site_of(lambda request: b"", timeout=0.05)) as served:
        silent = await served.connect()
        slow = await served.connect()
        await slow.send(b"GET / HTTP/1.1\r\nHo")
        done = await served.connect()
        await done.get("/")

        assert [b"", b"", b""] == [await silent.rest(), await slow.rest(), await done.rest()]


@on_loop
async def test_a_failing_request_class_closes_its_connection() -> None:
    """
    What escapes the application ends its connection, without an answer, as natively.
    """
    from twisted.web.server import Site

    class Broken(Request):
        def process(self) -> None:
            raise RuntimeError("broken on purpose")

    site = Site(Resource())
    site.requestFactory = Broken  # type: ignore[assignment]
    async with serving(site) as served:
        try:
            said = await served.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        except ConnectionResetError:
            said = b""

        assert b"" == said


@pytest.mark.parametrize("stages", [(), ("/new",), ("/old",), ("/new", "/old")])
@on_loop
async def test_who_asks_without_reading_is_not_read(stages: tuple[str, ...]) -> None:
    """
    A client that pipelines without end and reads nothing is no longer read from, on either
    road, and gets every answer in order once it reads.
    """
    big = b"b" * 50_000

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-length", b"%d" % len(big))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": big})

    table = RouteTable.build([Route("GET /new", stage=Stage.MODERN)])
    dispatch = Dispatch(table, {Side.MODERN: modern})
    paths = stages or ("/old", "/old", "/new")
    count = 600
    async with serving(site_of(lambda request: big), dispatch, dispatch.decide) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked = "".join(f"GET {paths[n % len(paths)]} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(count))
        client.writer.write(asked.encode())
        [connection] = await connected(served)
        await until(lambda: connection.flow.read_paused and connection.flow.write_paused)

        assert connection.transport.get_write_buffer_size() < 1_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        sizes = [len((await client.answer())[2]) for _ in range(count)]
        assert [len(big)] * count == sizes


async def connected(served: Any) -> list[Any]:
    await until(lambda: served.front.state.connections)
    return list(served.front.state.connections)
