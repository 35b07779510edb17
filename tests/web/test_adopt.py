"""
Whatever Site the user's code listens with is served by the harness at that address (W9).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource

from bridge.errors import ListenError, SiteChoiceError
from tests.certificates import self_signed
from tests.web.served import Client, on_loop, until


class Says(Resource):
    isLeaf = True

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def render_GET(self, request: Any) -> bytes:
        secure = b" secure" if request.isSecure() else b""
        return self.text + secure + b" " + type(request.channel).__name__.encode()


def site_of(text: bytes = b"adopted") -> Any:
    from twisted.web.server import Site

    return Site(Says(text))


@asynccontextmanager
async def adopting(opens: bool = True) -> AsyncIterator[tuple[Any, Any]]:
    """
    The bridged reactor with an adopter in its hook, and a front that serves.
    """
    from twisted.internet import reactor

    from bridge.web.adopt import Adopter
    from bridge.web.listen import Front
    from bridge.web.resource_app import ResourceApp

    adopter = Adopter(reactor, opens)
    front = Front(reactor, adopter)
    adopter.on_adopt = front.add
    hooked: Any = reactor
    before, hooked.on_listen = hooked.on_listen, adopter
    try:
        await front.start(ResourceApp(site_of(b"behind"), reactor))
        yield adopter, front
    finally:
        hooked.on_listen = before
        await front.close()


async def fetch(opened: Any) -> bytes:
    client = Client(*await opened)
    try:
        status, _, body = await client.get("/")
        assert 200 == status
        return body
    finally:
        client.abort()
        with suppress(OSError):
            await client.writer.wait_closed()


async def fetch_from(port: Any, **options: Any) -> bytes:
    return await fetch(asyncio.open_connection("127.0.0.1", port.getHost().port, **options))


@on_loop
async def test_listen_tcp() -> None:
    """
    listenTCP with a Site is served by a channel of ours; natively it wasn't.
    """
    from twisted.internet import reactor

    async with adopting() as (adopter, _front):
        port = reactor.listenTCP(0, site_of(), interface="127.0.0.1")  # type: ignore[attr-defined]

        assert b"adopted _LoopChannel" == await fetch_from(port)
        assert 1 == len(adopter.adopted)
        await port.stopListening()


@on_loop
async def test_services_and_strports() -> None:
    """
    TCPServer and strports listen through the same hook.
    """
    from twisted.application import internet, strports

    from bridge.loop import as_awaitable

    async with adopting() as (adopter, _front):
        first = internet.TCPServer(0, site_of(b"service"), interface="127.0.0.1")
        second = strports.service("tcp:0:interface=127.0.0.1", site_of(b"strports"))
        for service in (first, second):
            service.privilegedStartService()
            service.startService()

        bodies = [await fetch_from(adopted.port) for adopted in adopter.adopted]

        assert [b"service _LoopChannel", b"strports _LoopChannel"] == bodies
        for service in (first, second):
            await as_awaitable(service.stopService())


@on_loop
async def test_other_factories_listen_as_before() -> None:
    """
    What isn't a Site's stays Twisted's.
    """
    from twisted.internet import reactor

    class Echo(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(data)
            self.transport.loseConnection()

    async with adopting() as (adopter, _front):
        port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")  # type: ignore[attr-defined]
        reader, writer = await asyncio.open_connection("127.0.0.1", port.getHost().port)
        writer.write(b"echo")

        assert b"echo" == await reader.read()
        assert [] == adopter.adopted
        writer.close()
        await writer.wait_closed()
        await asyncio.wrap_future(_future(port.stopListening()))


def _future(deferred: Any) -> Any:
    from concurrent.futures import Future

    done: Future[Any] = Future()
    if deferred is None:
        done.set_result(None)
    else:
        deferred.addCallback(done.set_result)
    return done


@on_loop
async def test_listen_unix(tmp_path: Path) -> None:
    """
    A UNIX socket is served, has the mode that was asked for, and goes with the port.
    """
    from twisted.internet import reactor

    path = str(tmp_path / "web.sock")
    async with adopting():
        port = reactor.listenUNIX(path, site_of(), mode=0o600, wantPID=True)  # type: ignore[attr-defined]

        assert b"adopted _LoopChannel" == await fetch(asyncio.open_unix_connection(path))
        assert 0o600 == os.stat(path).st_mode & 0o777
        port.stopListening()
        assert not os.path.lexists(path)
        assert not os.path.lexists(path + ".lock")


@on_loop
async def test_adopt_stream_port() -> None:
    """
    An inherited socket, as systemd gives it.
    """
    from twisted.internet import reactor

    inherited = socket.socket()
    inherited.bind(("127.0.0.1", 0))
    inherited.listen()
    async with adopting():
        port = reactor.adoptStreamPort(inherited.fileno(), socket.AF_INET, site_of())  # type: ignore[attr-defined]
        inherited.close()

        assert b"adopted _LoopChannel" == await fetch_from(port)
        port.stopListening()


@on_loop
async def test_port_in_use_is_told_at_once() -> None:
    """
    CannotListenError comes from the listen call itself, as natively (L8).
    """
    from twisted.internet import reactor

    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    async with adopting() as (adopter, front):
        port = holder.getsockname()[1]

        with pytest.raises(CannotListenError):
            reactor.listenTCP(port, site_of(), interface="127.0.0.1")  # type: ignore[attr-defined]
        with pytest.raises(ListenError) as caught:
            front.bind(f"tcp:{port}:interface=127.0.0.1")

        assert [] == adopter.adopted
        assert "in use" in str(caught.value)
    holder.close()


@on_loop
async def test_closed_addresses_are_only_collected() -> None:
    """
    Where other addresses were asked for, the application's own stay closed.
    """
    from twisted.internet import reactor

    async with adopting(opens=False) as (adopter, _front):
        site = site_of()
        port = reactor.listenTCP(8765, site, interface="127.0.0.1")  # type: ignore[attr-defined]

        assert [site] == adopter.sites
        assert 8765 == port.getHost().port
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 8765)
        port.stopListening()


@on_loop
async def test_wrapped_site_keeps_its_wrapper() -> None:
    """
    A policy around a Site goes on holding, and the Site inside is served by ours.
    """
    from twisted.internet import reactor
    from twisted.protocols.policies import LimitTotalConnectionsFactory, WrappingFactory

    class Counting(WrappingFactory):
        count = 0

        def buildProtocol(self, addr: Any) -> Any:
            Counting.count += 1
            return super().buildProtocol(addr)

    assert LimitTotalConnectionsFactory is not None
    async with adopting() as (adopter, _front):
        port = reactor.listenTCP(0, Counting(site_of()), interface="127.0.0.1")  # type: ignore[attr-defined]

        assert b"adopted _LoopChannel" == await fetch_from(port)
        assert 1 == Counting.count
        assert 1 == len(adopter.adopted)
        await asyncio.wrap_future(_future(port.stopListening()))


@on_loop
async def test_several_sites_want_a_choice() -> None:
    """
    One Site on two ports is one; a second Site needs --site, and the error lists all.
    """
    from twisted.internet import reactor

    async with adopting() as (adopter, _front):
        site, other = site_of(), site_of(b"other")
        ports = [reactor.listenTCP(0, made, interface="127.0.0.1") for made in (site, site)]  # type: ignore[attr-defined]
        assert site is adopter.chosen(None)

        ports.append(reactor.listenTCP(0, other, interface="127.0.0.1"))  # type: ignore[attr-defined]
        with pytest.raises(SiteChoiceError) as caught:
            adopter.chosen(None)

        for adopted in adopter.adopted:
            assert adopted.address in str(caught.value)
        assert other is adopter.chosen(adopter.adopted[2].address)
        assert site is adopter.chosen(f"tcp:{ports[0].getHost().port}:interface=127.0.0.1")
        with pytest.raises(SiteChoiceError):
            adopter.chosen("127.0.0.1:1")
        for port in ports:
            port.stopListening()


@on_loop
async def test_stop_listening_refuses_new_connections() -> None:
    """
    stopListening closes the address, and the Site hears of it once.
    """
    from twisted.internet import reactor

    async with adopting():
        site = site_of()
        port = reactor.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[attr-defined]
        assert 1 == site.numPorts
        await fetch_from(port)
        port.stopListening()
        port.stopListening()

        assert 0 == site.numPorts
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port.getHost().port)


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@on_loop
async def test_tls_context_of_the_application(tmp_path: Path) -> None:
    """
    listenSSL with a pyOpenSSL context: Twisted's TLS, our channel, isSecure() says so.
    """
    import ssl

    pytest.importorskip("OpenSSL", reason="TLS is an extra")
    from twisted.internet import reactor
    from twisted.internet.ssl import DefaultOpenSSLContextFactory

    made = self_signed(tmp_path)
    key, cert = str(made.private), str(made.public)
    trusting = ssl.create_default_context(cafile=cert)
    trusting.check_hostname = False
    async with adopting() as (_adopter, front):
        contexts = DefaultOpenSSLContextFactory(key, cert)
        port = reactor.listenSSL(0, site_of(), contexts, interface="127.0.0.1")  # type: ignore[attr-defined]
        [listener] = front.bind(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}", site_of(b"endpoint"))
        await asyncio.sleep(0)

        assert b"adopted secure _LoopChannel" == await fetch_from(port, ssl=trusting)
        assert b"endpoint secure _LoopChannel" == await fetch_from(listener.adopted.port, ssl=trusting)
        await asyncio.wrap_future(_future(port.stopListening()))


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning", "ignore:twisted:DeprecationWarning")
@on_loop
async def test_tls_shows_the_peers_certificate(tmp_path: Path) -> None:
    """
    Where Twisted encrypts, a Request finds the client's certificate, and can tune the socket,
    as natively. The face of asyncio said None.
    """
    import ssl

    openssl = pytest.importorskip("OpenSSL.SSL", reason="TLS is an extra")
    from twisted.internet import reactor
    from twisted.internet.ssl import DefaultOpenSSLContextFactory
    from twisted.web.server import Site

    class Names(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            request.transport.setTcpKeepAlive(True)
            found = request.transport.getPeerCertificate()
            name = None if found is None else found.to_cryptography().subject.rfc4514_string()
            return repr((name, request.transport.getTcpKeepAlive())).encode()

    made = self_signed(tmp_path)
    contexts = DefaultOpenSSLContextFactory(str(made.private), str(made.public))
    contexts.getContext().set_verify(openssl.VERIFY_PEER, lambda *found: True)
    trusting = ssl.create_default_context(cafile=str(made.public))
    trusting.check_hostname = False
    async with adopting():
        port = reactor.listenSSL(0, Site(Names()), contexts, interface="127.0.0.1")  # type: ignore[attr-defined]
        await asyncio.sleep(0)

        assert repr((None, True)).encode() == await fetch_from(port, ssl=trusting)
        trusting.load_cert_chain(made.public, made.private)
        assert repr(("CN=localhost", True)).encode() == await fetch_from(port, ssl=trusting)
        await asyncio.wrap_future(_future(port.stopListening()))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_loop
async def test_twisteds_parser_inside_a_wrapping_factory(tmp_path: Path, kind: str) -> None:
    """
    What only Twisted's parser understands is answered there too. Its channel asked for TCP's
    options of what had none, and the connection was cut.
    """
    from twisted.internet import reactor
    from twisted.protocols.policies import WrappingFactory

    async with adopting():
        wrapped = WrappingFactory(site_of())
        if kind == "tcp":
            port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")  # type: ignore[attr-defined]
            opened = asyncio.open_connection("127.0.0.1", port.getHost().port)
        else:
            port = reactor.listenUNIX(str(tmp_path / "s"), wrapped)  # type: ignore[attr-defined]
            opened = asyncio.open_unix_connection(tmp_path / "s")
        client = Client(*await opened)
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n folded\r\n\r\n")

        assert 200 == (await client.answer())[0]
        client.abort()
        with suppress(OSError):
            await client.writer.wait_closed()
        await asyncio.wrap_future(_future(port.stopListening()))


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning", "ignore:twisted:DeprecationWarning")
@on_loop
async def test_tls_back_pressure_and_disconnect(tmp_path: Path) -> None:
    """
    Over Twisted's TLS a slow reader pauses the producer, gets all of it when it reads, and
    a disconnect is told.
    """
    import ssl

    pytest.importorskip("OpenSSL", reason="TLS is an extra")
    from twisted.internet import reactor
    from twisted.internet.ssl import DefaultOpenSSLContextFactory
    from twisted.web.server import NOT_DONE_YET, Site
    from twisted.web.static import File

    gone: list[Any] = []

    class Never(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> int:
            request.notifyFinish().addErrback(gone.append)
            return NOT_DONE_YET

    content = os.urandom(8 << 20)
    (tmp_path / "big").write_bytes(content)
    root = Resource()
    root.putChild(b"big", File(str(tmp_path / "big")))
    root.putChild(b"never", Never())
    made = self_signed(tmp_path)
    key, cert = str(made.private), str(made.public)
    trusting = ssl.create_default_context(cafile=cert)
    trusting.check_hostname = False
    async with adopting() as (_adopter, front):
        contexts = DefaultOpenSSLContextFactory(key, cert)
        port = reactor.listenSSL(0, Site(root), contexts, interface="127.0.0.1")  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        opened = asyncio.open_connection("127.0.0.1", port.getHost().port, ssl=trusting)
        client = Client(*await opened)
        assert (200, content) == (await client.get("/big"))[::2]
        await client.send(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.01)
        client.abort()
        await until(lambda: gone)
        await until(lambda: not front.state.connections)
        with suppress(OSError):
            await client.writer.wait_closed()
        await asyncio.wrap_future(_future(port.stopListening()))
