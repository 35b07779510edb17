"""
A visitor is the same on both stacks, and a shadow leaves no trace of its visits (W12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from bridge.routing import Route, RouteTable, Side, Stage
from tests.web.served import Dispatch, on_loop, serving


class View:
    """
    The test's declaration: attributes of the session are the keys.
    """

    def read(self, session: Any) -> Mapping[str, Any]:
        return dict(getattr(session, "told", {}))

    def write(self, session: Any, values: Mapping[str, Any]) -> None:
        session.told = dict(values)

    def user(self, session: Any) -> str | None:
        name: str | None = getattr(session, "told", {}).get("name")
        return name


class Legacy(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        session: Any = request.getSession()
        told = dict(getattr(session, "told", {}))
        told["legacy"] = told.get("legacy", 0) + 1
        session.told = told
        return repr(sorted(told.items())).encode()


async def modern(scope: Any, receive: Any, send: Any) -> None:
    session = scope["session"]
    if scope["path"] == "/new/login":
        session["name"] = "ann"
    elif scope["path"] == "/new/logout":
        session.clear()
    elif scope["path"] == "/new/later":
        await asyncio.sleep(0)
    user = scope["user"]
    body = repr((sorted(session.items()), user.display_name, user.is_authenticated, scope["auth"].scopes)).encode()
    head = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if scope["path"] == "/new/later":
        session["later"] = True
    await send({"type": "http.response.body", "body": b""})


def both_stacks() -> tuple[Any, Dispatch]:
    from twisted.web.server import Site

    from bridge.web.sessions import SharedSessions

    site = Site(Legacy())
    table = RouteTable.build([Route("GET /new/{what}", stage=Stage.MODERN)])
    return site, Dispatch(table, {Side.MODERN: SharedSessions(modern, site, View())})


def cookie_of(headers: dict[str, str]) -> str:
    return f"Cookie: {headers['set-cookie'].partition(';')[0]}\r\n"


@on_loop
async def test_login_on_modern_is_seen_by_legacy_and_back() -> None:
    """
    The session that modern opened is the Twisted one: legacy reads and changes it, and
    modern sees that.
    """
    site, dispatch = both_stacks()
    async with serving(site, dispatch, dispatch.decide) as served:
        client = await served.connect()
        _, headers, _ = await client.get("/new/login")
        cookie = cookie_of(headers)
        assert headers["set-cookie"].startswith("TWISTED_SESSION=")
        assert headers["set-cookie"].endswith("; Path=/")

        _, again, legacy = await client.get("/old", cookie)
        _, _, me = await client.get("/new/me", cookie)

        assert "set-cookie" not in again
        assert b"[('legacy', 1), ('name', 'ann')]" == legacy
        assert b"([('legacy', 1), ('name', 'ann')], 'ann', True, ['authenticated'])" == me
        assert 1 == len(site.sessions)


@on_loop
async def test_logout_on_modern_expires_the_session() -> None:
    """
    An emptied session is expired as Twisted expires it, so notifyOnExpire is called.
    """
    site, dispatch = both_stacks()
    async with serving(site, dispatch, dispatch.decide) as served:
        client = await served.connect()
        _, headers, _ = await client.get("/new/login")
        ended: list[int] = []
        [session] = site.sessions.values()
        session.notifyOnExpire(lambda: ended.append(1))

        await client.get("/new/logout", cookie_of(headers))

        assert ([1], {}) == (ended, site.sessions)
        assert not session._expireCall


@on_loop
async def test_reading_opens_no_session() -> None:
    """
    A visitor whom nobody told anything gets no cookie.
    """
    site, dispatch = both_stacks()
    async with serving(site, dispatch, dispatch.decide) as served:
        client = await served.connect()

        _, headers, body = await client.get("/new/me", "Cookie: TWISTED_SESSION=unknown\r\n")

        assert "set-cookie" not in headers
        assert b"([], '', False, [])" == body
        assert {} == site.sessions


@on_loop
async def test_changes_merge_by_key() -> None:
    """
    What legacy changed during a modern request isn't lost when that one settles, nor is
    what modern changes after its answer's head.
    """
    site, dispatch = both_stacks()
    async with serving(site, dispatch, dispatch.decide) as served:
        client, other = await served.connect(), await served.connect()
        _, headers, _ = await client.get("/new/login")
        cookie = cookie_of(headers)

        await asyncio.gather(client.get("/new/later", cookie), other.get("/old", cookie))

        [session] = site.sessions.values()
        assert {"name": "ann", "legacy": 1, "later": True} == session.told
        for found in list(site.sessions.values()):
            found.expire()


async def shadowed(app: Any, path: str, headers: Any) -> bytes:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
        "extensions": {"bgserver.shadow": {}},
    }
    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


@on_loop
async def test_shadows_get_an_overlay() -> None:
    """
    A shadow of either side sees the session, and changes, opens and refreshes none. Without
    the overlay a legacy shadow opened a real session for each request.
    """
    from twisted.internet import reactor

    from bridge.web.resource_app import ResourceApp

    def timers_of_sessions() -> int:
        return sum("expire" in repr(call) for call in reactor.getDelayedCalls())  # type: ignore[attr-defined]

    timers = timers_of_sessions()
    site, dispatch = both_stacks()
    session = site.makeSession()
    session.told = {"name": "ann"}
    before = session.lastModified
    headers = [(b"cookie", b"TWISTED_SESSION=" + session.uid)]
    legacy = ResourceApp(site, reactor)

    first = await shadowed(legacy, "/old", headers)
    second = await shadowed(legacy, "/old", headers)
    stranger = await shadowed(legacy, "/old", [])
    login = await shadowed(dispatch.sides[Side.MODERN], "/new/login", [])
    await shadowed(dispatch.sides[Side.MODERN], "/new/logout", headers)

    assert b"[('legacy', 1), ('name', 'ann')]" == first == second
    assert b"[('legacy', 1)]" == stranger
    assert login.startswith(b"([('name', 'ann')]")
    assert {session.uid: session} == site.sessions
    assert ({"name": "ann"}, before) == (session.told, session.lastModified)
    session.expire()
    assert timers == timers_of_sessions()


@on_loop
async def test_a_sandbox_keeps_its_sessions() -> None:
    """
    The second instance's Site is its own, so its sessions last from request to request.
    """
    from twisted.internet import reactor

    from bridge.web.resource_app import ResourceApp

    site, _dispatch = both_stacks()
    sandbox = ResourceApp(site, reactor, overlays=False)
    await shadowed(sandbox, "/old", [])
    [session] = site.sessions.values()
    second = await shadowed(sandbox, "/old", [(b"cookie", b"TWISTED_SESSION=" + session.uid)])
    session.expire()

    assert b"[('legacy', 2)]" == second
