"""
Owns what is believed of a proxy in front: C{X-Forwarded-For} and C{X-Forwarded-Proto},
from the addresses that the policy trusts, and from nobody else.

It is for the modern side, for a canary that sticks to its clients, and for shadows of the
modern side.  A Site never looked at these headers, and goes on seeing its peer.

Refuses: to trust anybody by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import attrs

Scope = MutableMapping[str, Any]
Address = tuple[str, int | None]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Under this name a scope keeps who really connected, and how, where a proxy was believed.
PEER = "bgserver.peer"
# What the policy calls everybody who comes by a UNIX socket.
UNIX = "unix"
_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


@attrs.frozen
class Proxies:
    """
    The trusted ones.

    @ivar unix: Whether whoever connects to a UNIX socket is one of them.
    """

    networks: tuple[_Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, trusted: Sequence[str]) -> Proxies | None:
        """
        From addresses, networks and C{unix}; None where nobody is trusted.

        @raise ValueError: If one of them is none of these.
        """
        if not trusted:
            return None
        networks = tuple(ipaddress.ip_network(each) for each in trusted if each != UNIX)
        return cls(networks, UNIX in trusted)

    def trusts(self, host: str | None) -> bool:
        """
        Whether what comes from there is believed; None is the peer of a UNIX socket.
        """
        if not host:
            return self.unix
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in self.networks)

    def client_of(self, peer: Sequence[Any] | None, headers: Iterable[tuple[bytes, bytes]]) -> Address | None:
        """
        Who asks: the last in the chain that isn't trusted, or its first if all are.

        @param headers: With names in any case.
        """
        known: Address | None = None if peer is None else (peer[0], peer[1])
        if not self.trusts(None if peer is None else peer[0]):
            return known
        chain = [part.strip() for value in _values(headers, b"x-forwarded-for") for part in value.split(b",")]
        found = known
        for part in reversed(chain):
            host, port = _host_and_port(part.decode("latin-1"))
            if not host:
                break
            found = (host, port)
            if not self.trusts(host):
                break
        return found

    def believe(self, scope: Scope) -> None:
        """
        Put the client, and the scheme that it used, into a scope.
        """
        peer, scheme = scope.get("client"), scope.get("scheme")
        if not self.trusts(None if peer is None else peer[0]):
            return
        headers = scope["headers"]
        client = self.client_of(peer, headers)
        scope["client"] = client
        said = _values(headers, b"x-forwarded-proto")
        used = _SCHEMES.get(said[-1].strip().lower()) if said else None
        if used is not None:
            scope["scheme"] = used.replace("http", "ws") if scope["type"] == "websocket" else used
        if (client, scope.get("scheme")) != (peer, scheme):
            scope["extensions"] = {**(scope.get("extensions") or {}), PEER: (peer, scheme)}


def peer_of(scope: Scope) -> tuple[Any, Any]:
    """
    The address that connected, and the scheme that it spoke, whatever a proxy said.
    """
    found: tuple[Any, Any] | None = (scope.get("extensions") or {}).get(PEER)
    return (scope.get("client"), scope.get("scheme")) if found is None else found


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]


def _host_and_port(text: str) -> Address:
    """
    C{host}, C{host:port}, C{[host]} or C{[host]:port}; no host if it is no IP address.
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "", 0
    return host, int(port) if port.isdecimal() and int(port) < 65536 else 0
