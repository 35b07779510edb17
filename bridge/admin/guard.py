"""
Owns who may speak to the admin listener.

With a token, whoever has it.  Without one, this machine alone, and no web page that
somebody on this machine looks at: a page can make a browser send requests to
127.0.0.1, under any host name that it has pointed there, but not without its own
name in C{Host} or C{Origin}.

Refuses: to listen beyond loopback without a token, which is said before it starts.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from bridge.errors import ConfigError

TOKEN = "BGSERVER_ADMIN_TOKEN"
"""
The environment variable that holds the token: it is no matter of a reviewed file.
"""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SHORTEST = 16


def token_for(endpoint: str, environ: Mapping[str, str]) -> str | None:
    """
    The token that an admin listener at this endpoint asks for; None on this machine,
    if none is set.

    @raise ConfigError: If it needs one and there is none, or one that is too short.
    """
    token = environ.get(TOKEN) or None
    if token is None and not _is_local(endpoint):
        raise ConfigError(
            "options",
            "admin",
            f"{endpoint} can be reached from other machines. Set {TOKEN} to a long random text, "
            "or listen on interface=127.0.0.1.",
        )
    if token is not None and len(token) < _SHORTEST:
        raise ConfigError(TOKEN, "", f"a token of {len(token)} characters can be guessed; use {_SHORTEST} or more")
    return token


def _is_local(endpoint: str) -> bool:
    kind, *words = endpoint.replace("\\:", "\0").split(":")
    if kind == "unix":
        return True
    for word in words:
        name, found, value = word.partition("=")
        if found and name == "interface":
            return is_loopback(value.replace("\0", ":"))
    return False


def is_loopback(host: str) -> bool:
    """
    Whether an address, or a name, can only be this machine's.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """
    An ASGI application that lets only the right requests through to another.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await _refuse(send, *refusal)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        if self._token is not None:
            given = headers.get(b"authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return 401, "no_token", f"This listener wants `Authorization: Bearer` with the token of {TOKEN}."
            return None
        client = scope.get("client")
        if client is not None and client[0] and not is_loopback(client[0]):
            return 403, "not_local", f"Without {TOKEN} only this machine is answered."
        host = _name(headers.get(b"host", ""))
        if not is_loopback(host):
            return 403, "not_local", f"{host!r} is no name of this machine's own."
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
            return 403, "not_local", "A page of another origin may not ask this."
        return None


def _name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "") if host else "localhost"


async def _refuse(send: Send, status: int, error: str, message: str) -> None:
    body = json.dumps({"error": error, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
