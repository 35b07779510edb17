"""
Owns what the two stacks know about a visitor together: the Twisted session, as
C{scope["session"]} for the ASGI side, and copies of it for shadows.

The session lives where it always lived, in the Site, with its cookie, its timer and its
C{notifyOnExpire}.  The user's L{SessionView} says which of its components are which keys
of a JSON mapping; nothing else is shared.  Starlette's C{request.session} and
C{request.user} find what they look for, and no application imports the harness.

Refuses: to keep anything itself; to let a shadow open, refresh, change or end a session.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

import attrs

from bridge.web.proxies import peer_of

# Under this name an ASGI scope says that nobody will see the answer.
SHADOW = "bgserver.shadow"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


class SessionView(Protocol):
    """
    Declared by the user: a Twisted session as a JSON mapping.

    Called on the loop's thread, and expected not to block.
    """

    def read(self, session: Any) -> Mapping[str, Any]:
        """
        The components' contents; empty for a session that says nothing.
        """

    def write(self, session: Any, values: Mapping[str, Any]) -> None:
        """
        Make the components say exactly this.
        """

    def user(self, session: Any) -> str | None:
        """
        The name behind the session's cred avatar; None if nobody is logged in.
        """


@attrs.frozen
class User:
    """
    C{scope["user"]}, with what Starlette's C{BaseUser} has.
    """

    username: str

    @property
    def is_authenticated(self) -> bool:
        return bool(self.username)

    @property
    def display_name(self) -> str:
        return self.username

    @property
    def identity(self) -> str:
        return self.username


@attrs.frozen
class Auth:
    """
    C{scope["auth"]}, with what Starlette's C{AuthCredentials} has.
    """

    scopes: list[str]


class SharedSessions:
    """
    ASGI middleware around the modern side: the Site's sessions in its scope.

    What a request changes is merged into the session by key, before the answer's head and
    again at its end, so that requests of both stacks at the same time lose nothing of each
    other.  An emptied mapping is a logout: it ends the Twisted session.

    @ivar view: The user's.
    """

    def __init__(self, app: App, site: Any, view: SessionView) -> None:
        self.app = app
        self.site = site
        self.view = view

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """
        Serve one request; anything but http and websocket passes.
        """
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if SHADOW in (scope.get("extensions") or {}):
            await self.app(self._told(scope, self._find(scope, touch=False)), receive, send)
            return
        session = self._find(scope, touch=True)
        inner = self._told(scope, session)
        visit = _Visit(self, scope, session, inner["session"])

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                cookie = visit.settle()
                if cookie is not None:
                    message = {**message, "headers": [*message.get("headers", ()), cookie]}
            await send(message)

        try:
            await self.app(inner, receive, sending)
        finally:
            # Background tasks change sessions too; a cookie comes too late then.
            visit.settle(opens=False)

    def _told(self, scope: Scope, session: Any) -> Scope:
        values = {} if session is None else copy.deepcopy(dict(self.view.read(session)))
        name = None if session is None else self.view.user(session)
        return {
            **scope,
            "session": values,
            "user": User(name or ""),
            "auth": Auth(["authenticated"] if name else []),
        }

    def _find(self, scope: Scope, touch: bool) -> Any:
        uid = _cookies(scope).get(cookie_name(scope))
        if uid is None:
            return None
        try:
            session = self.site.getSession(uid)
        except KeyError:
            return None
        if touch:
            session.touch()
        return session


class _Visit:
    """
    One request's changes.
    """

    def __init__(
        self, shared: SharedSessions, scope: Scope, session: Any, values: dict[str, Any]
    ) -> None:
        self._shared = shared
        self._scope = scope
        self._session = session
        self._values = values
        self._seen = copy.deepcopy(values)

    def settle(self, opens: bool = True) -> tuple[bytes, bytes] | None:
        """
        Bring what was changed into the session.

        @param opens: Whether a new session may be opened.
        @return: The header that tells the client of it.
        """
        if self._values == self._seen:
            return None
        site, view = self._shared.site, self._shared.view
        session, opened = self._session, False
        if session is not None and site.sessions.get(session.uid) is not session:
            # It expired, or somebody logged out meanwhile: that stays so.
            self._seen = copy.deepcopy(self._values)
            return None
        if session is None:
            if not opens:
                return None
            session = self._session = site.makeSession()
            opened = True
        if not self._values:
            session.expire()
            self._session = None
        else:
            view.write(session, self._merged(view.read(session)))
        self._seen = copy.deepcopy(self._values)
        return _set_cookie(self._scope, session.uid) if opened else None

    def _merged(self, current: Mapping[str, Any]) -> dict[str, Any]:
        merged = dict(current)
        for key in self._seen.keys() - self._values.keys():
            merged.pop(key, None)
        for key, value in self._values.items():
            if key not in self._seen or self._seen[key] != value:
                merged[key] = copy.deepcopy(value)
        return merged


def cookie_name(scope: Scope) -> bytes:
    """
    The name that Twisted gives the session's cookie for a Site at the root.
    """
    return b"TWISTED_SECURE_SESSION" if _secure(scope) else b"TWISTED_SESSION"


def _secure(scope: Scope) -> bool:
    # As the Site sees it, behind a proxy too: both stacks must look for the same cookie.
    return peer_of(scope)[1] in ("https", "wss")


def _cookies(scope: Scope) -> dict[bytes, bytes]:
    found = {}
    for name, value in scope["headers"]:
        if name == b"cookie":
            for part in value.split(b";"):
                key, equals, content = part.lstrip().partition(b"=")
                if equals:
                    found[key] = content
    return found


def _set_cookie(scope: Scope, uid: bytes) -> tuple[bytes, bytes]:
    secure = b"; Secure" if _secure(scope) else b""
    return b"set-cookie", cookie_name(scope) + b"=" + uid + b"; Path=/" + secure


# shadows of legacy


class OverlaySessions(MutableMapping[bytes, Any]):
    """
    A shadow's C{site.sessions}: copies of what is there, and its own beside them.
    """

    def __init__(self, site: Any, real: Mapping[bytes, Any]) -> None:
        self._site = site
        self._real = real
        self._own: dict[bytes, Any] = {}
        self._gone: set[bytes] = set()

    def __getitem__(self, uid: bytes) -> Any:
        if uid in self._own:
            return self._own[uid]
        if uid in self._gone:
            raise KeyError(uid)
        made = self._own[uid] = _copied(self._real[uid], self._site)
        return made

    def __setitem__(self, uid: bytes, session: Any) -> None:
        self._own[uid] = session

    def __delitem__(self, uid: bytes) -> None:
        self[uid]
        del self._own[uid]
        self._gone.add(uid)

    def __iter__(self) -> Iterator[bytes]:
        return iter({*self._own, *self._real} - self._gone)

    def __len__(self) -> int:
        return len({*self._own, *self._real} - self._gone)

    def close(self) -> None:
        """
        The shadow is over: no timer of its sessions stays behind.
        """
        for session in self._own.values():
            call = getattr(session, "_expireCall", None)
            if call is not None and call.active():
                call.cancel()
            session._expireCall = None


def shadow_of(site: Any) -> Any:
    """
    The same Site for one shadow, with sessions that nobody else sees.
    """
    kind = type(site)
    made: Any = object.__new__(kind)
    made.__dict__.update(site.__dict__)
    made.sessions = OverlaySessions(made, site.sessions)
    return made


def _copied(session: Any, site: Any) -> Any:
    made: Any = object.__new__(type(session))
    for name, value in session.__dict__.items():
        if name in ("site", "_reactor"):
            continue
        made.__dict__[name] = _own_copy(value)
    made.site = site
    made._reactor = session._reactor
    made._expireCall = None
    made.expireCallbacks = []
    return made


def _own_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _own_copy(part) for key, part in value.items()}
    try:
        return copy.deepcopy(value)
    except Exception:
        # Connections and the like: seen, but not to be had twice.
        return value
