"""
What static.File answers goes from the file to the socket inside the kernel, where nobody else would see its bytes;
nothing but the cost of it differs from what Twisted's producers write.

Every exchange is held twice, once where C{sendfile} refuses each call and Twisted's own writes do it all.
Seen to fail: without each of the conditions in `quick_file`, one by one; without a transport's own C{write}, or its
end, being looked at; with what C{sendfile} raises passed on; and with the file's position left where it was.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import EncodingResourceWrapper
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Request, Site

from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from bridge.web import quick_file
from bridge.web.quick_file import TEXTS, quick_producers, read
from bridge.web.quick_request import text_of
from tests.certificates import self_signed
from tests.web.served import Client, Served, on_loop, serving, until
from tests.web.wire import Unjudged, quiet

pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")

SMALL = random.Random(1).randbytes(300_001)
# More than two sockets take together.
LONG = 24 << 20
PATTERN = random.Random(2).randbytes(1 << 20)
GET = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"


class Sends:
    """
    What C{sendfile} sent.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.stock = os.sendfile
        self.refuses = False
        self.then: Callable[[], None] = lambda: None

    def __call__(self, *args: Any) -> int:
        if self.refuses:
            raise OSError("it would not")
        size = self.stock(*args)
        self.bytes += size
        self.then()
        return size


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Sends:
    made = Sends()
    monkeypatch.setattr(os, "sendfile", made)
    return made


@pytest.fixture(params=["sent", "written"])
def either(request: pytest.FixtureRequest, sends: Sends) -> Sends:
    """
    The same where it works, and where it is refused.
    """
    sends.refuses = request.param == "written"
    return sends


class Files:
    """
    A Site of files, what it logged of each answer, and what became of each request.
    """

    def __init__(self, folder: Path, made: Callable[[Any], None] = lambda request: None) -> None:
        from twisted.web.static import File

        (folder / "small").write_bytes(SMALL)
        (folder / "long").write_bytes(PATTERN * (LONG // len(PATTERN)))
        self.long = folder / "long"
        self.logged: list[int] = []
        self.ended: list[str] = []
        self.opened: list[Any] = []
        self.requests: list[Any] = []
        house = self

        class Watched(File):
            def openForReading(self) -> Any:
                house.opened.append(super().openForReading())
                return house.opened[-1]

            def render_GET(self, request: Any) -> Any:
                house.requests.append(request)
                told = request.notifyFinish()
                told.addCallbacks(
                    lambda _: house.ended.append("finished"), lambda failure: house.ended.append("left")
                )
                made(request)
                return super().render_GET(request)

            render_HEAD = render_GET

        self.root: Any = Watched(str(folder))
        self.site: Any = Site(self.root)
        self.site.log = lambda request: self.logged.append(request.sentLength)

    def closed(self) -> bool:
        return all(file.closed for file in self.opened)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def slow(served: Served) -> Client:
    """
    A client that takes little and has asked for the long file.
    """
    client = await served.connect()
    await client.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.reader.readexactly(1000)
    return client


async def stuck(files: Files) -> None:
    """
    Wait until the server can't send any more.
    """
    await until(lambda: files.requests and files.requests[-1].channel._waitingForTransport)


async def got(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    client = Client(reader, writer)
    body = (await client.get("/small"))[2]
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return body


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@on_loop
async def test_what_is_encrypted_is_written_and_a_unix_socket_is_plain(sends: Sends, tmp_path: Path) -> None:
    """
    Nothing goes past TLS, by sendfile or otherwise; files go to a UNIX socket as to TCP.

    Seen to fail for UNIX without the quick producers. TLS is held twice, by the transport's class and by its face,
    which shows no socket: taking out the first alone fails nothing.
    """
    import ssl

    pytest.importorskip("OpenSSL", reason="TLS is an extra")
    from twisted.internet import reactor

    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    made = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=str(made.public))
    trusting.check_hostname = False
    site = Files(tmp_path).site
    front = Front(reactor)
    [safe] = front.bind(f"ssl:0:interface=127.0.0.1:privateKey={made.private}:certKey={made.public}", site)
    front.bind(f"unix:{tmp_path}/s", site)
    await front.start(ResourceApp(site, reactor))
    try:
        port = safe.adopted.port.getHost().port
        assert SMALL == await got(*await asyncio.open_connection("127.0.0.1", port, ssl=trusting))
        encrypted, sends.bytes = sends.bytes, 0
        assert SMALL == await got(*await asyncio.open_unix_connection(f"{tmp_path}/s"))
    finally:
        await front.close()

    assert 0 == encrypted
    assert 0 < sends.bytes


@on_loop
async def test_the_same_bytes(either: Sends, tmp_path: Path) -> None:
    """
    Files, HEAD, ranges, conditions and HTTP/1.0, one after the other and pipelined, and what the log says of each.
    """
    asked: list[tuple[bytes, bytes, bytes]] = [
        (GET, b"200", SMALL),
        (GET.replace(b"GET", b"HEAD"), b"200", b""),
        (GET.replace(b"Host", b"Range: bytes=5-250004\r\nHost"), b"206", SMALL[5:250_005]),
        (GET.replace(b"Host", b"Range: bytes=-70001\r\nHost"), b"206", SMALL[-70_001:]),
        (GET.replace(b"Host", b"Range: bytes=999999-\r\nHost"), b"416", b""),
        (GET.replace(b"1.1\r\n", b"1.0\r\nConnection: close\r\n"), b"200", SMALL),
    ]
    files = Files(tmp_path)
    async with serving(files.site) as served:
        heard = await served.exchange(b"".join(request for request, _, _ in asked))
        for _, code, body in asked:
            head, _, rest = heard.partition(b"\r\n\r\n")
            assert code == head.split(b" ")[1]
            assert body == rest[: len(body)]
            heard = rest[len(body) :]

        assert b"" == heard
        assert [len(body) for _, _, body in asked] == files.logged
        assert ["finished"] * len(asked) == files.ended
        assert files.closed()
        assert either.refuses == (either.bytes == 0)


@on_loop
async def test_several_ranges(either: Sends, tmp_path: Path) -> None:
    """
    An answer of several ranges is written, as its parts are mixed with words.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        client = await served.connect()

        status, _, body = await client.get("/small", "Range: bytes=0-99999,150000-299999\r\n")

        assert 206 == status
        assert SMALL[:100_000] in body
        assert SMALL[150_000:300_000] in body
        assert 0 == either.bytes


@on_loop
async def test_a_slow_reader_gets_everything(either: Sends, tmp_path: Path) -> None:
    """
    What the sockets don't take at once waits in the file, not in memory, and the next request for its turn.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        client = await slow(served)
        await client.send(GET.replace(b"Host", b"Connection: close\r\nHost"))
        await stuck(files)
        transport = files.requests[-1].channel.transport._transport
        assert transport.get_write_buffer_size() < 1 << 18
        assert not files.closed()
        assert [] == files.logged

        rest = await client.rest()
        assert rest.endswith(b"\r\n\r\n" + SMALL)
        assert PATTERN * (LONG // len(PATTERN) - 1) in rest

        assert [LONG, len(SMALL)] == files.logged
        assert ["finished", "finished"] == files.ended
        assert files.closed()


@on_loop
async def test_what_was_written_goes_first(either: Sends, tmp_path: Path) -> None:
    """
    A socket may have room again before what waits for it in the transport has left.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        loop = asyncio.get_running_loop()
        with socket.socket() as plain:
            plain.setblocking(False)
            await loop.sock_connect(plain, ("127.0.0.1", served.port))
            await loop.sock_sendall(plain, GET.replace(b"small", b"long"))
            await stuck(files)
            got = bytearray()
            with suppress(BlockingIOError):
                # The loop doesn't turn meanwhile.
                while True:
                    got += plain.recv(1 << 20)
            files.requests[-1].producer.resumeProducing()
            while len(got) < LONG:
                got += await loop.sock_recv(plain, 1 << 20)

        assert (tmp_path / "long").read_bytes().startswith(got.partition(b"\r\n\r\n")[2])


@on_loop
async def test_nothing_follows_the_end(sends: Sends, tmp_path: Path) -> None:
    """
    A connection that the application closes gets no piece more.
    """
    files = Files(tmp_path)
    sizes: list[int] = []

    def ends() -> None:
        sizes.append(sends.bytes)
        files.requests[-1].loseConnection()

    sends.then = ends
    async with serving(files.site) as served:
        client = await served.connect()
        await client.send(GET.replace(b"small", b"long"))
        await client.rest()
        await until(lambda: files.ended)

        assert [sends.bytes] == sizes
        assert files.closed()


@on_loop
async def test_what_only_twisted_understands(sends: Sends, tmp_path: Path) -> None:
    """
    From such a request on its own channel writes.
    """
    async with serving(Files(tmp_path).site) as served:
        client = await served.connect()

        assert (200, SMALL) == (await client.get("/small", "X-Folded: one\r\n two\r\n"))[::2]
        assert 0 == sends.bytes


@pytest.mark.parametrize("how", ["peer", "loseConnection", "abortConnection"])
@on_loop
async def test_an_end_in_the_middle(how: str, either: Sends, tmp_path: Path) -> None:
    """
    Whoever ends the connection while a reader is slow, the request hears of it, and file and descriptors go.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        before = descriptors()
        client = await slow(served)
        await stuck(files)
        if how == "abortConnection":
            files.requests[-1].transport.abortConnection()
        elif how == "loseConnection":
            files.requests[-1].loseConnection()
        if how != "abortConnection":
            client.abort()

        await until(lambda: files.ended)
        assert ["left"] == files.ended
        assert [] == files.logged
        assert files.closed()
        client.abort()
        await until(lambda: descriptors() <= before)


@on_loop
async def test_leaving_anywhere(either: Sends, tmp_path: Path) -> None:
    """
    Clients that read some of it and go leave no file, no request and no descriptor behind.
    """
    files = Files(tmp_path)
    draws = random.Random(2)
    async with serving(files.site) as served:
        before = descriptors()
        for _ in range(40):
            client = await served.connect()
            await client.send(GET.replace(b"small", b"long"))
            await client.reader.read(draws.choice((1, 1000, 70_000, 700_000)))
            for _ in range(draws.randrange(5)):
                await asyncio.sleep(0)
            client.abort()
        await until(lambda: len(files.ended) == 40)

        assert {"left"} == set(files.ended)
        assert files.closed()
        await until(lambda: descriptors() <= before)


@on_loop
async def test_a_file_that_shrinks(either: Sends, tmp_path: Path) -> None:
    """
    An answer ends where its file ends now, as under Twisted, and is logged with what was sent.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        client = await slow(served)
        await stuck(files)
        os.truncate(files.long, LONG // 2)

        reading = asyncio.ensure_future(client.rest())
        await until(lambda: files.logged)
        client.writer.write_eof()
        await reading

        [sent] = files.logged
        head = reading.result().find(b"\r\n\r\n")
        assert LONG // 2 == sent
        assert head == -1
        assert ["finished"] == files.ended


@on_loop
async def test_a_stop_in_the_middle(either: Sends, tmp_path: Path) -> None:
    """
    A drain waits for a slow reader, who gets all that it is owed.
    """
    files = Files(tmp_path)
    async with serving(files.site) as served:
        client = await slow(served)
        await stuck(files)
        served.front.stop_accepting()
        draining = asyncio.ensure_future(served.front.drain(50))
        await asyncio.sleep(0)
        assert not draining.done()

        rest = await client.rest()

        assert await draining
        assert [LONG] == files.logged
        assert LONG - 1000 < len(rest)


@pytest.mark.parametrize("stage", [Stage.LEGACY, Stage.SHADOW, Stage.CANARY])
@on_loop
async def test_who_watches_sees_the_bytes(stage: Stage, sends: Sends, tmp_path: Path) -> None:
    """
    What somebody watches is written, so that it can be compared.
    """
    from twisted.internet import reactor

    from bridge.web.resource_app import ResourceApp

    files = Files(tmp_path)
    sides = {Side.LEGACY: ResourceApp(files.site, reactor), Side.MODERN: quiet}
    route = Route(None, stage, effects=Effects.NONE, weight=0.0)
    shadows = ShadowQueue(sides, Unjudged())
    dispatcher = Dispatcher(Cell(RouteTable.build([], route)), sides, shadows)
    async with serving(files.site, dispatcher, dispatcher.table.value.decide, watch=dispatcher.watch) as served:
        client = await served.connect()

        assert (200, SMALL) == (await client.get("/small"))[::2]
        await shadows.settled()

        assert (stage is Stage.LEGACY) == (sends.bytes > 0)


@on_loop
async def test_an_encoder(sends: Sends, tmp_path: Path) -> None:
    """
    What is compressed has to be read.
    """
    files = Files(tmp_path)
    files.root.isLeaf = True
    files.root.path += b"/small" if isinstance(files.root.path, bytes) else "/small"
    files.site.resource = EncodingResourceWrapper(files.root, [GzipEncoderFactory()])
    async with serving(files.site) as served:
        client = await served.connect()

        _, headers, body = await client.get("/", "Accept-Encoding: gzip\r\n")
        # Without chunks, and without a length.
        await client.send(b"GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
        old = (await client.rest()).partition(b"\r\n\r\n")[2]

        assert "gzip" == headers["content-encoding"]
        assert SMALL == gzip.decompress(body) == gzip.decompress(old)
        assert 0 == sends.bytes


def _write_of_its_own(request: Any) -> None:
    stock = request.write
    request.write = lambda data: stock(bytes(data))


def _class_of_its_own(request: Any) -> None:
    class Own(type(request)):  # type: ignore[misc]
        def write(self, data: bytes) -> None:
            super().write(data)

    request.__class__ = Own


def _channels_write(request: Any) -> None:
    stock = request.channel.write
    request.channel.write = lambda data: stock(data)


def _transports_write(request: Any) -> None:
    stock = request.channel.transport.write
    request.channel.transport.write = lambda data: stock(data)


def _chunks(request: Any) -> None:
    stock = request.setHeader
    request.setHeader = lambda name, value: None if name == b"content-length" else stock(name, value)


OWN = [_write_of_its_own, _class_of_its_own, _channels_write, _transports_write, _chunks]


@pytest.mark.parametrize("made", OWN, ids=lambda made: made.__name__)
@on_loop
async def test_who_writes_differently(made: Callable[[Any], None], sends: Sends, tmp_path: Path) -> None:
    """
    An application with a write of its own, at any level, gets every byte, and what has no length is sent in chunks.
    """
    files = Files(tmp_path, made)
    async with serving(files.site) as served:
        client = await served.connect()

        assert (200, SMALL) == (await client.get("/small"))[::2]
        assert 0 == sends.bytes


@pytest.mark.parametrize("owner", [HTTPRequest, Request])
@on_loop
async def test_a_write_that_is_replaced_since(
    owner: Any, sends: Sends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    So does one that puts it into Twisted's classes while the server runs, as tracers do.
    """
    async with serving(Files(tmp_path).site) as served:
        stock = owner.write
        seen: list[int] = []

        def write(self: Any, data: bytes) -> None:
            seen.append(len(data))
            stock(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(owner, "write", write)
            client = await served.connect()

            assert (200, SMALL) == (await client.get("/small"))[::2]
            assert len(SMALL) == sum(seen)
            assert 0 == sends.bytes


@pytest.mark.parametrize("name", ["gzip", "memory", "slow", "subclass", "wrapped"])
@on_loop
async def test_what_is_no_plain_file(name: str, sends: Sends, tmp_path: Path) -> None:
    """
    Whoever reads from something else, in other pieces or by a class of its own, goes on with it.
    """
    from twisted.web.resource import Resource
    from twisted.web.static import NoRangeStaticProducer

    class Mine(NoRangeStaticProducer):
        pass

    class Paced:
        def __init__(self, inner: Any) -> None:
            self.stopProducing = inner.stopProducing
            self.resumeProducing = inner.resumeProducing

    (tmp_path / "f").write_bytes(SMALL)
    (tmp_path / "f.gz").write_bytes(gzip.compress(SMALL))

    class Produces(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            file: Any = (tmp_path / "f").open("rb")
            if name == "gzip":
                file.close()
                file = io.BufferedReader(gzip.GzipFile(tmp_path / "f.gz"))  # type: ignore[type-var]
            elif name == "memory":
                file.close()
                file = io.BytesIO(SMALL)
            request.setHeader(b"content-length", b"%d" % len(SMALL))
            producer = (Mine if name == "subclass" else NoRangeStaticProducer)(request, file)
            if name == "slow":
                producer.bufferSize = 10_000
            if name == "wrapped":
                request.registerProducer(Paced(producer), False)
            else:
                producer.start()
            return NOT_DONE_YET

    async with serving(Site(Produces())) as served:
        client = await served.connect()

        assert (200, SMALL) == (await client.get("/"))[::2]
        assert 0 == sends.bytes


@on_loop
async def test_behind_asgi(sends: Sends, tmp_path: Path) -> None:
    """
    There the server writes.
    """
    async with serving(Files(tmp_path).site, hot=False) as served:
        client = await served.connect()

        assert (200, SMALL) == (await client.get("/small"))[::2]
        assert 0 == sends.bytes


def test_the_installed_release_is_known() -> None:
    """
    The methods of this Twisted are those that were read. If this fails after an upgrade, read them again.
    """
    assert text_of(read()) in TEXTS
    assert 2 == len(quick_producers())


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_replaced_before_is_left(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An application that put its own in one of these places keeps both, and so does a release that nobody read.
    """
    owner, name = read()[place]
    stock = vars(owner)[name]
    monkeypatch.setattr(owner, name, lambda self: stock(self))

    assert [] == quick_producers()


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where the system has no such call, or the text isn't known, Twisted's stay.
    """
    with monkeypatch.context() as patch:
        patch.setattr(quick_file, "TEXTS", frozenset())
        assert [] == quick_producers()
    monkeypatch.delattr(os, "sendfile")

    assert [] == quick_producers()
