"""
Who is believed about who asks, and who goes on seeing the peer.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Request

from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.routing import BY_CLIENT, Cell, Effects, Route, RouteTable, Side, Stage
from bridge.web.proxies import Proxies
from bridge.web.sessions import cookie_name
from tests.web.served import on_loop, serving
from tests.web.wire import Unjudged

PROXY = ("10.0.0.1", 40000)


@pytest.mark.parametrize(
    "trusted, chain, found",
    [
        (["10.0.0.1"], [b"192.0.2.7"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], [b"192.0.2.7, 10.9.9.9"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], [b"192.0.2.7", b"10.9.9.9"], ("192.0.2.7", 0)),
        # What the client wrote itself stands left of what the first trusted proxy saw.
        (["10.0.0.1"], [b"127.0.0.1, 192.0.2.7"], ("192.0.2.7", 0)),
        (["10.0.0.0/8"], [b"10.2.2.2, 10.9.9.9"], ("10.2.2.2", 0)),
        (["10.0.0.1"], [b"192.0.2.7:5000"], ("192.0.2.7", 5000)),
        (["10.0.0.1"], [b"[2001:db8::7]:5000"], ("2001:db8::7", 5000)),
        (["10.0.0.1"], [b"2001:db8::7"], ("2001:db8::7", 0)),
        (["10.0.0.1"], [b"unknown"], PROXY),
        (["10.0.0.0/8"], [b"nonsense, 10.9.9.9"], ("10.9.9.9", 0)),
        (["10.0.0.1"], [b""], PROXY),
        (["10.0.0.1"], [], PROXY),
        (["10.0.0.2"], [b"192.0.2.7"], PROXY),
        (["unix"], [b"192.0.2.7"], PROXY),
    ],
)
def test_the_client_behind_a_chain(trusted: list[str], chain: list[bytes], found: Any) -> None:
    """
    The client is the last that isn't a trusted proxy; what can't be an address ends the chain.
    """
    proxies = Proxies.of(trusted)
    assert proxies is not None

    assert found == proxies.client_of(PROXY, [(b"X-Forwarded-For", value) for value in chain])


def test_a_unix_socket_has_to_be_named() -> None:
    """
    Its peer has no address, and is believed under its own name alone.
    """
    headers = [(b"x-forwarded-for", b"192.0.2.7")]
    believed, unbelieved = Proxies.of(["unix"]), Proxies.of(["0.0.0.0/0"])
    assert believed is not None and unbelieved is not None

    assert ("192.0.2.7", 0) == believed.client_of(None, headers)
    assert None is unbelieved.client_of(None, headers)


def test_nobody_is_trusted_by_default() -> None:
    """
    Not even the loopback address, as uvicorn alone would.
    """
    assert None is Proxies.of(())


def test_an_ipv4_address_in_an_ipv6_socket() -> None:
    """
    A listener on :: sees IPv4 peers as mapped addresses: they are the same peers.
    """
    proxies = Proxies.of(["10.0.0.0/8"])

    assert proxies is not None and proxies.trusts("::ffff:10.1.2.3")


@pytest.mark.parametrize(
    "kind, said, found",
    [
        ("http", b"https", "https"),
        ("websocket", b"https", "wss"),
        ("websocket", b"wss", "wss"),
        ("http", b"gopher", "http"),
    ],
)
def test_the_scheme(kind: str, said: bytes, found: str) -> None:
    """
    The scheme is the one that the client used, in the words of the scope's kind.
    """
    scope: Any = {
        "type": kind,
        "scheme": "http" if kind == "http" else "ws",
        "client": PROXY,
        "headers": [(b"x-forwarded-proto", said)],
    }
    proxies = Proxies.of(["10.0.0.1"])
    assert proxies is not None
    proxies.believe(scope)

    assert found == scope["scheme"]
    # The Site behind it sees plain HTTP, and names its cookie so.
    assert b"TWISTED_SESSION" == cookie_name(scope)


class Peer(Resource):
    """
    Says who asks, as legacy code sees it.
    """

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return repr((request.getClientAddress().host, request.isSecure())).encode()  # type: ignore[attr-defined]


@on_loop
async def test_a_canary_sticks_to_the_client_behind_the_proxy() -> None:
    """
    All clients come from one address then; without trust they all are one subject.
    """
    from twisted.web.server import Site

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    table = RouteTable.build([Route("GET /", Stage.CANARY, weight=50.0, effects=Effects.EXTERNAL, selector=BY_CLIENT)])
    dispatcher = Dispatcher(Cell(table), {Side.MODERN: modern}, ShadowQueue({}, Unjudged()))
    sides = []
    for trusted in ((), ("127.0.0.1",)):
        options = {"watch": dispatcher.watch, "proxies": Proxies.of(trusted)}
        async with serving(Site(Peer()), dispatcher, table.decide, **options) as served:
            client = await served.connect()
            chain = [f"X-Forwarded-For: 192.0.2.{n}\r\n" for n in range(30)]
            statuses = [(await client.get("/", header))[0] for header in chain]
            again = [(await client.get("/", header))[0] for header in chain]
            assert statuses == again
            sides.append(set(statuses))

    assert 1 == len(sides[0])
    assert {200, 201} == sides[1]


@on_loop
async def test_shadows_on_both_sides_of_a_proxy() -> None:
    """
    A shadow of the modern side gets the client, and one of legacy the peer, as they would
    where they answer.
    """
    from twisted.internet import reactor
    from twisted.web.server import Site

    from bridge.web.resource_app import ResourceApp

    seen = []

    async def modern(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["client"][0], scope["scheme"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Judge(Unjudged):
        def judge(self, trial: Any) -> None:
            seen.append((trial.answer.prefix, trial.replicate.prefix))

    site = Site(Peer())
    sides = {Side.LEGACY: ResourceApp(site, reactor), Side.MODERN: modern}
    table = RouteTable.build([Route("GET /", Stage.SHADOW)])
    dispatcher = Dispatcher(Cell(table), sides, ShadowQueue(sides, Judge()))
    proxies = Proxies.of(["127.0.0.1"])
    async with serving(site, dispatcher, table.decide, watch=dispatcher.watch, proxies=proxies) as served:
        client = await served.connect()
        await client.get("/", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n")
        await dispatcher.shadows.settled()

    peer = repr(("127.0.0.1", False)).encode()
    assert {("192.0.2.7", "https"), (peer, peer)} == set(seen)
