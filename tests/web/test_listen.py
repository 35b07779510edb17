"""
Listeners, both ownership modes, limits and good-byes.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from bridge.errors import LifespanError, ListenError
from bridge.routing import Route, RouteTable, Side, Stage
from bridge.web.cycle import uvicorn_known
from bridge.web.lifespan import Lifespan
from tests.web.served import Client, Dispatch, on_loop, serving, until


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return type(request.channel).__name__.encode()


def site() -> Any:
    from twisted.web.server import Site

    return Site(Hello())


async def modern(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"modern"})


def dispatch() -> Dispatch:
    table = RouteTable.build([Route("GET /new", stage=Stage.MODERN)])
    return Dispatch(table, {Side.MODERN: modern})


@on_loop
async def test_attached_protocol_finds_its_road() -> None:
    """
    Made by uvicorn alone, the protocol finds legacy_front behind the middlewares; an
    application without one is plain uvicorn.
    """
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from bridge.web.site_protocol import SiteProtocol

    class Composed:
        def __init__(self) -> None:
            self.legacy_front = self
            self.proxies = None
            self.dispatch = dispatch()
            self.site = site()
            self.asked: list[Any] = []

        def decide(self, method: bytes, raw_path: bytes, asks: Any) -> Any:
            return self.dispatch.decide(method, raw_path, asks)

        def watch(self, decision: Any, scope: Any) -> None:
            raise AssertionError("nobody watches here")

        def site_for(self, listener: Any) -> Any:
            self.asked.append(listener)
            return self.site

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.dispatch(scope, receive, send)

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await modern(scope, receive, send)

    loop = asyncio.get_running_loop()
    composed = Composed()
    bodies = []
    for app in (Middleware(composed), bare):
        config = Config(app, http=SiteProtocol, log_config=None, access_log=False, proxy_headers=True)
        config.load()
        state = ServerState()
        server = await loop.create_server(
            lambda config=config, state=state: SiteProtocol(config, state, {}, _loop=loop), "127.0.0.1", 0
        )
        port = server.sockets[0].getsockname()[1]
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        bodies += [(await client.get(path))[2] for path in ("/old", "/new")]
        client.abort()
        with pytest.raises(ConnectionError):
            await client.writer.wait_closed()
            raise ConnectionError
        server.close()
        await until(lambda state=state: not state.connections)

    assert [b"_LoopChannel", b"modern", b"modern", b"modern"] == bodies
    assert [("127.0.0.1", composed.asked[0][1])] == composed.asked


def test_other_releases_step_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On a uvicorn that wasn't tested the class makes uvicorn's own protocol.
    """
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    from bridge.web import site_protocol

    assert uvicorn_known("0.54.3")
    assert not uvicorn_known("0.49.9")
    assert not uvicorn_known("1.0")
    monkeypatch.setattr(site_protocol, "uvicorn_known", lambda: False)
    config = Config(modern, log_config=None)
    loop = asyncio.new_event_loop()
    made = site_protocol.SiteProtocol(config, ServerState(), {}, loop, road=None, look=False)
    loop.close()

    assert HttpToolsProtocol is type(made)


UNKNOWN_RELEASE = """
import asyncio
import sys
import uvicorn
from uvicorn.protocols import utils
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.protocols.websockets import wsproto_impl
from bridge.loop import install

# What that release hasn't got under these names, it has under others.
uvicorn.__version__ = "0.99.0"
missing = {
    utils: ["get_client_addr", "get_path_with_query_string"],
    flow_control: ["HIGH_WATER_LIMIT", "FlowControl", "service_unavailable"],
    httptools_impl: ["HEADER_RE", "HEADER_VALUE_RE", "STATUS_LINE"],
}
kept = {module: {name: vars(module).pop(name) for name in names} for module, names in missing.items()}
reactor = install("asyncio")
from bridge.web.listen import Front
for module, names in kept.items():
    vars(module).update(names)

from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import Site
from bridge.web.resource_app import ResourceApp

globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
root = Resource()
root.render_GET = lambda request: b"legacy"
root.isLeaf = True


async def ask():
    site = Site(root)
    front = Front(reactor)
    [listener] = front.bind("tcp:0:interface=127.0.0.1", site)
    await front.start(ResourceApp(site, reactor))
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.adopted.port.getHost().port)
    writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print((await reader.read()).decode())
    await front.close()
    reactor.stop()


tasks = []
reactor.callWhenRunning(lambda: tasks.append(asyncio.get_running_loop().create_task(ask())))
reactor.run()
"""


def test_a_release_that_lacks_what_is_used() -> None:
    """
    A later uvicorn that has other internals is stepped aside for, and that is said; it was an ImportError.
    """
    ran = subprocess.run([sys.executable, "-c", UNKNOWN_RELEASE], capture_output=True, text=True, timeout=60)

    assert "uvicorn 0.99.0 isn't one that the hot road was tested with" in ran.stderr, ran.stderr
    assert ran.stdout.startswith("HTTP/1.1 200 OK"), ran.stdout
    assert ran.stdout.rstrip().endswith("legacy")


@on_loop
async def test_modern_websockets_are_told_1001() -> None:
    """
    A drain says "going away" to websockets, where uvicorn says "service restart".
    """
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import CloseConnection
    from wsproto.events import Request as Handshake

    made = dispatch()
    async with serving(site(), made, made.decide) as served:
        client = await served.connect()
        conn = WSConnection(ConnectionType.CLIENT)
        await client.send(conn.send(Handshake("127.0.0.1", "/new")))
        conn.receive_data(await client.reader.readuntil(b"\r\n\r\n"))
        assert [] != list(conn.events())
        served.front.stop_accepting()
        draining = asyncio.ensure_future(served.front.drain(5))
        conn.receive_data(await client.rest())

        [event] = list(conn.events())
        assert isinstance(event, CloseConnection)
        assert 1001 == event.code
        assert await draining


@on_loop
async def test_concurrency_limit_holds_on_both_roads() -> None:
    """
    Past limit_concurrency both roads end in uvicorn's 503.
    """
    made = dispatch()
    async with serving(site(), made, made.decide, limit_concurrency=2) as served:
        first = await served.connect()
        assert 200 == (await first.get("/old"))[0]
        second = await served.connect()
        await served.connect()

        await until(lambda: len(served.front.state.connections) == 3)
        statuses = [(await client.get(path))[0] for client, path in ((first, "/old"), (second, "/new"))]

        assert [503, 503] == statuses


@on_loop
async def test_tcp6_and_unix(tmp_path: Path) -> None:
    """
    Endpoint strings of other kinds: IPv6 and UNIX, whose peers have addresses of their kind.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site

    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    class Peer(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            return repr((type(request.getClientAddress()).__name__, type(request.getHost()).__name__)).encode()

    made = Site(Peer())
    front = Front(reactor)
    [six] = front.bind("tcp6:0:interface=\\:\\:1", made)
    front.bind(f"unix:{tmp_path}/s", made)
    hidden = front.bind(f"unix:{tmp_path}/t")
    await front.start(ResourceApp(made, reactor))
    try:
        bodies = []
        for opened in (
            asyncio.open_connection("::1", six.adopted.port.getHost().port),
            asyncio.open_unix_connection(f"{tmp_path}/s"),
            asyncio.open_unix_connection(f"{tmp_path}/t"),
        ):
            client = Client(*await opened)
            bodies.append((await client.get("/"))[2])
            client.writer.close()
            await client.writer.wait_closed()
    finally:
        await front.close()

    assert repr(("IPv6Address", "IPv6Address")).encode() == bodies[0]
    assert [repr(("UNIXAddress", "UNIXAddress")).encode()] * 2 == bodies[1:]
    assert [] == front.listeners
    assert not hidden[0].adopted.port.socket.fileno() > 0


@on_loop
async def test_a_sites_own_channel_class(road: bool) -> None:
    """
    Limits that a Site's own channel class sets hold here too. Before they were looked at,
    the long header was a 400.
    """
    from twisted.web.http import HTTPChannel

    class Roomy(HTTPChannel):
        totalHeadersSize = 60_000

    made = site()
    made.protocol = Roomy
    async with serving(made, hot=road) as served:
        client = await served.connect()
        # Each line stays below what one line may have.
        extra = "".join(f"X-{n}: {'v' * 8000}\r\n" for n in range(5))

        assert 200 == (await client.get("/", extra))[0]


@on_loop
async def test_several_listeners_on_one_port() -> None:
    """
    With reuse_port two fronts share an address, as several processes do.
    """
    from twisted.internet import reactor

    from bridge.web.adopt import Adopter
    from bridge.web.listen import Front

    first = Front(reactor, Adopter(reactor, reuse_port=True))
    second = Front(reactor, Adopter(reactor, reuse_port=True))
    [one] = first.bind("tcp:0:interface=127.0.0.1", site())
    port = one.adopted.port.getHost().port
    [two] = second.bind(f"tcp:{port}:interface=127.0.0.1", site())

    assert one.address == two.address
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    "endpoint", ["tcp:notaport", "nonsense:1", "tcp", "ssl:443:privateKey=/nowhere.pem", "unix:/no/folder/s"]
)
@on_loop
async def test_bad_endpoints_are_one_line(endpoint: str) -> None:
    """
    What can't be listened on is a ListenError that names it, and nothing stays bound.
    """
    from twisted.internet import reactor

    from bridge.web.listen import Front

    front = Front(reactor)
    with pytest.raises(ListenError) as caught:
        front.bind(endpoint, site())

    assert endpoint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [] == front.listeners


@on_loop
async def test_each_cause_has_its_own_remedy() -> None:
    """
    Who names an address that isn't this machine's has nothing to stop.  Breaks where all causes share one remedy.
    """
    from twisted.internet import reactor

    from bridge.web.listen import Front

    front = Front(reactor)
    with socket.create_server(("127.0.0.1", 0)) as owner:
        with pytest.raises(ListenError, match=r": Address already in use\. Stop what uses it"):
            front.bind(f"tcp:{owner.getsockname()[1]}:interface=127.0.0.1", site())
    with pytest.raises(ListenError, match=r": Cannot assign requested address\. No interface of this machine"):
        front.bind("tcp:0:interface=192.0.2.1", site())


@on_loop
async def test_what_legacy_takes_over_is_bounded_by_the_drain() -> None:
    """
    A request that never ends doesn't hold a stop up: the drain gives up in time, close cuts.
    """
    asked: list[Request] = []

    class Never(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> int:
            asked.append(request)
            return NOT_DONE_YET

    from twisted.web.server import Site

    async with serving(Site(Never())) as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: asked)
        served.front.stop_accepting()

        assert not await served.front.drain(0.05)
        await served.front.close()
        assert b"" == await client.rest()


def lifespan(*answers: str, fail: str = "") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fail == "at once":
            raise RuntimeError("no lifespan here")
        scope["state"]["said"] = 1
        for answer in answers:
            await receive()
            if fail == answer:
                raise RuntimeError("on purpose")
            await send({"type": f"lifespan.{answer}", "message": "because"})

    return app


def test_lifespan_from_start_to_end() -> None:
    """
    startup gives the state, shutdown waits for the application to return.
    """

    async def go() -> Any:
        driven = Lifespan(lifespan("startup.complete", "shutdown.complete"))
        state = await driven.startup()
        await driven.shutdown()
        await driven.shutdown()
        return state

    assert {"said": 1} == asyncio.run(go())


def test_application_without_a_lifespan() -> None:
    """
    One that raises before it asked for anything has no lifespan, and starts all the same.
    """

    async def go() -> Any:
        driven = Lifespan(lifespan(fail="at once"))
        state = await driven.startup()
        await driven.shutdown()
        return state

    assert {} == asyncio.run(go())


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (lifespan("startup.failed"), "failed to start: because"),
        (lifespan("startup.complete", fail="startup.complete"), "failed to start: RuntimeError: on purpose"),
        (lifespan("startup.complete", "shutdown.failed"), "failed to shut down: because"),
        (
            lifespan("startup.complete", "shutdown.complete", fail="shutdown.complete"),
            "failed to shut down: RuntimeError: on purpose",
        ),
    ],
)
def test_failed_lifespans_say_why(app: Any, says: str) -> None:
    """
    A failure to start or to shut down is raised, with the application's reason.
    """

    async def go() -> None:
        driven = Lifespan(app, "the modern application")
        await driven.startup()
        await driven.shutdown()

    with pytest.raises(LifespanError) as caught:
        asyncio.run(go())

    assert says in str(caught.value)


@on_loop
async def test_a_close_forgets_who_never_began() -> None:
    """
    A task takes itself out of the server's when it ends; one that is cancelled before its first step never runs, and
    would be waited for by the next drain. Seen to fail without the last line about tasks in `Front.close`.
    """

    async def never() -> None:
        raise AssertionError("it began")

    async with serving(Site(Resource())) as served:
        tasks = served.front.state.tasks
        tasks.add(asyncio.get_running_loop().create_task(never()))
        await served.front.close()
        assert set() == tasks
