"""
Owns the listen calls of the user's code: whatever Site it listens with, on whatever
address, is bound here at once and served by the front; every other factory listens as
it always did.

A Site alone on tcp, UNIX or an inherited socket gives its socket to the loop.  Under
TLS, or wrapped in another factory, Twisted goes on accepting, and a L{HostFactory}
takes the Site's place inside.

Refuses: to look for Sites in service trees.  What listens, shows itself.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet import defer
from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.python.lockfile import FilesystemLock
from twisted.web.server import Site
from zope.interface import implementer

from bridge.errors import SiteChoiceError
from bridge.web.facade import HostFactory
from bridge.web.transport import address_of

_KINDS = ("tcp", "tcp4", "tcp6", "ssl")


class ListenCall(Protocol):
    """
    C{bridge.loop.Listen}, as far as it is looked at here.
    """

    kind: Any
    factory: Any
    port: int
    address: Any
    interface: str
    backlog: int
    context_factory: Any
    mode: int | None
    want_pid: bool
    fd: int
    family: int


def site_in(factory: Any) -> Any | None:
    """
    The Site that a factory is, or wraps; None if there is none.
    """
    seen = 0
    while factory is not None and seen < 16:
        if isinstance(factory, Site):
            return factory
        factory = getattr(factory, "wrappedFactory", None)
        seen += 1
    return None


def bound(listen: ListenCall, reuse_port: bool = False) -> socket.socket:
    """
    The listening socket that a call asks for.

    @raise CannotListenError: As Twisted raises it, if that can't be had.
    """
    if listen.kind == "adopt":
        # Twisted duplicates it too: the caller may close its own.
        return socket.fromfd(listen.fd, listen.family, socket.SOCK_STREAM, _proto(listen.family))
    if listen.kind == "unix":
        return _bound_unix(listen)
    family = socket.AF_INET6 if isIPv6Address(listen.interface) else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, _proto(family))
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(_where(family, listen.interface, listen.port))
        made.listen(listen.backlog)
    except OSError as e:
        made.close()
        raise CannotListenError(listen.interface, listen.port, e) from e
    made.setblocking(False)
    return made


def _proto(family: int) -> int:
    # asyncio sets TCP_NODELAY only where the socket says that it is TCP; without it, each
    # answer of two writes waits for the peer's delayed acknowledgement, 40 ms.
    return socket.IPPROTO_TCP if family in (socket.AF_INET, socket.AF_INET6) else 0


def _where(family: socket.AddressFamily, interface: str, port: int) -> Any:
    if family == socket.AF_INET6:
        # Only getaddrinfo knows the scope of a link-local address.
        return socket.getaddrinfo(
            interface, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0][4]
    return (interface, port)


def _bound_unix(listen: ListenCall) -> socket.socket:
    path = os.fsencode(listen.address)
    abstract = path.startswith(b"\0")
    if listen.want_pid and not abstract:
        lock = _lock(path)
        if not lock.lock():
            raise CannotListenError(None, os.fsdecode(path), OSError("its lock is held"))
        if not lock.clean:
            _unlink_socket(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        if listen.mode is not None and not abstract:
            os.chmod(path, listen.mode)
        made.listen(listen.backlog)
    except OSError as e:
        made.close()
        raise CannotListenError(None, os.fsdecode(path), e) from e
    made.setblocking(False)
    return made


def _lock(path: bytes) -> Any:
    return FilesystemLock(os.fsdecode(path) + ".lock")


def _unlink_socket(path: bytes) -> None:
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except OSError:
        return


@implementer(IListeningPort)
class AdoptedPort:
    """
    What the user's code gets for its listen call.

    @ivar socket: Bound and listening; None where the address stays closed.
    @ivar on_stop: Called once when the user's code stops listening.
    """

    def __init__(self, listen: ListenCall, site: Any, sock: socket.socket | None) -> None:
        self.listen = listen
        self.site = site
        self.socket = sock
        self.on_stop: Callable[[], None] | None = None
        self._name = None if sock is None else sock.getsockname()
        self._closed = False

    def startListening(self) -> None:
        """
        It listens from the moment that it exists.
        """

    def stopListening(self) -> defer.Deferred[None]:
        """
        Accept no further connections; those that are open go on.
        """
        if not self._closed:
            self._closed = True
            if self.on_stop is not None:
                self.on_stop()
            if self.socket is not None:
                self.socket.close()
                self._remove()
            self.site.doStop()
        return defer.succeed(None)

    loseConnection = stopListening

    def _remove(self) -> None:
        if self.listen.kind != "unix":
            return
        path = os.fsencode(self.listen.address)
        if not path.startswith(b"\0"):
            _unlink_socket(path)
            if self.listen.want_pid:
                _lock(path).unlock()

    def getHost(self) -> Any:
        if self._name is not None:
            return address_of(self._name)
        if self.listen.kind == "unix":
            return address_of(self.listen.address)
        return address_of((self.listen.interface or "0.0.0.0", self.listen.port))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {type(self.site).__name__} on {text_of(self.getHost())}>"


def text_of(address: Any) -> str:
    """
    An address in a few readable characters, as C{--site} takes it.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", b"") or b""
        return "unix:" + os.fsdecode(name)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@attrs.frozen(eq=False)
class Adopted:
    """
    One listen call with a Site.

    @ivar port: What the user's code got.
    @ivar socket: For the loop to serve; None where Twisted goes on accepting, or where
        the address stays closed.
    @ivar host: The factory inside Twisted's own listener; None where there is a socket.
    """

    site: Any
    port: Any
    socket: socket.socket | None
    host: HostFactory | None

    @property
    def address(self) -> str:
        """
        Where it listens, as C{--site} takes it.
        """
        return text_of(self.port.getHost())


class Adopter:
    """
    The reactor's C{on_listen} hook.

    @ivar reactor: Listens itself for what Twisted goes on accepting.
    @ivar opens: False where other addresses were asked for, or uvicorn has the only
        listener: Sites are collected, and their own addresses stay closed.
    @ivar reuse_port: Whether several processes may listen on the same TCP address, each
        taking a part of the connections.
    @ivar adopted: What was collected, in the order of the calls.
    @ivar on_adopt: Told of each one; the front sets it, to serve late ones too.
    """

    def __init__(self, reactor: Any, opens: bool = True, reuse_port: bool = False) -> None:
        self.reactor = reactor
        self.reuse_port = reuse_port
        self.opens = opens
        self.adopted: list[Adopted] = []
        self.on_adopt: Callable[[Adopted], None] | None = None

    def __call__(self, listen: ListenCall) -> Any | None:
        """
        @return: The port, or None for what isn't a Site's.
        """
        site = site_in(listen.factory)
        if site is None:
            return None
        if not self.opens:
            adopted = self._closed(listen, site)
        elif listen.factory is site and listen.kind != "ssl":
            adopted = self._plain(listen, site)
        else:
            adopted = self._hosted(listen, site)
        self.adopted.append(adopted)
        if self.on_adopt is not None:
            self.on_adopt(adopted)
        return adopted.port

    def _plain(self, listen: ListenCall, site: Any) -> Adopted:
        sock = bound(listen, self.reuse_port)
        site.doStart()
        return Adopted(site, AdoptedPort(listen, site, sock), sock, None)

    def _closed(self, listen: ListenCall, site: Any) -> Adopted:
        site.doStart()
        return Adopted(site, AdoptedPort(listen, site, None), None, None)

    def _hosted(self, listen: ListenCall, site: Any) -> Adopted:
        host = HostFactory(site)
        factory = _replaced(listen.factory, site, host)
        reactor = self.reactor
        if self.reuse_port and listen.kind in ("tcp", "ssl"):
            port = self._shared(listen, factory)
        elif listen.kind == "ssl":
            port = reactor.listenSSL(
                listen.port, factory, listen.context_factory, listen.backlog, listen.interface
            )
        elif listen.kind == "unix":
            port = reactor.listenUNIX(
                listen.address, factory, listen.backlog, listen.mode, listen.want_pid
            )
        elif listen.kind == "adopt":
            port = reactor.adoptStreamPort(listen.fd, listen.family, factory)
        else:
            port = reactor.listenTCP(listen.port, factory, listen.backlog, listen.interface)
        return Adopted(site, port, None, host)

    def _shared(self, listen: ListenCall, factory: Any) -> Any:
        # Twisted's own listen calls know no such option, but take a socket that has it.
        if listen.kind == "ssl":
            from twisted.protocols.tls import TLSMemoryBIOFactory  # only where OpenSSL is

            factory = TLSMemoryBIOFactory(listen.context_factory, False, factory)
        with bound(listen, reuse_port=True) as sock:
            return self.reactor.adoptStreamPort(sock.fileno(), sock.family, factory)

    @property
    def sites(self) -> list[Any]:
        """
        The different Sites, in the order in which they began to listen.
        """
        found: list[Any] = []
        for adopted in self.adopted:
            if not any(adopted.site is site for site in found):
                found.append(adopted.site)
        return found

    def chosen(self, wanted: str | None) -> Any | None:
        """
        The Site whose routes move: the only one, or the one that C{--site} names by
        one of its addresses; None where there is none at all.

        @raise SiteChoiceError: If there are several and none is named, or the name
            fits none of them.
        """
        addresses = [f"{adopted.address}" for adopted in self.adopted]
        if wanted is None:
            sites = self.sites
            if len(sites) > 1:
                raise SiteChoiceError(addresses, None)
            return sites[0] if sites else None
        for adopted in self.adopted:
            if _names(wanted, adopted):
                return adopted.site
        raise SiteChoiceError(addresses, wanted)


def _names(wanted: str, adopted: Adopted) -> bool:
    address = adopted.address
    if wanted in (address, address.removeprefix("unix:")):
        return True
    # A port alone, or an endpoint string, is what people have at hand.
    host = adopted.port.getHost()
    words = wanted.split(":")
    numbers = [word for word in words if word.isdigit()]
    if numbers[:1] != [str(getattr(host, "port", None))] or words[0] not in (*_KINDS, numbers[0]):
        return False
    named = [word.removeprefix("interface=") for word in words if word.startswith("interface=")]
    return not named or named[0] == host.host


def _replaced(factory: Any, site: Any, host: HostFactory) -> Any:
    """
    The same wrapping, with the host factory in the Site's place.
    """
    if factory is site:
        return host
    outer = factory
    while factory.wrappedFactory is not site:
        factory = factory.wrappedFactory
    factory.wrappedFactory = host
    return outer
