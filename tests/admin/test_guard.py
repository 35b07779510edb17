"""
Who may speak to the admin listener.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from bridge.admin import TOKEN, token_for
from bridge.admin.guard import Guard, is_loopback
from bridge.errors import ConfigError

SECRET = "a-long-random-text"


async def anybody(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"in"})  # type: ignore[operator]


def status(token: str | None = None, client: str = "127.0.0.1", headers: dict[str, str | bytes] | None = None) -> int:
    async def ask() -> int:
        transport = httpx.ASGITransport(Guard(anybody, token), client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as asked:
            return (await asked.post("/api/set", headers=headers)).status_code  # type: ignore[arg-type]

    return asyncio.run(ask())


def test_this_machine_needs_no_token() -> None:
    """
    Loopback by default.
    """
    assert status() == 200
    assert status(headers={"host": "localhost:8001", "origin": "http://localhost:8001"}) == 200
    assert status(client="::1", headers={"host": "[::1]:8001"}) == 200


def test_another_machine_is_refused_without_a_token() -> None:
    """
    Even where a proxy or a mistake lets it come through.
    """
    assert status(client="192.0.2.1") == 403


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_a_web_page_cannot_use_the_operators_browser(headers: dict[str, str]) -> None:
    """
    Neither by a name that points to 127.0.0.1, nor by a form sent across origins.
    """
    assert status(headers=headers) == 403


def test_with_a_token_it_opens_from_anywhere_and_nothing_else_does() -> None:
    """
    Once a token is set, this machine needs it too.
    """
    good: dict[str, str | bytes] = {"authorization": f"Bearer {SECRET}"}

    assert status(SECRET, "192.0.2.1", good) == 200
    assert status(SECRET, "127.0.0.1") == 401
    assert status(SECRET, headers={"authorization": "Bearer wrong"}) == 401
    assert status(SECRET, headers={"authorization": b"Bearer \xfc"}) == 401


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:8001:interface=127.0.0.1", "tcp:8001:interface=localhost", "tcp6:8001:interface=\\:\\:1", "unix:/run/a.sock"],
)
def test_a_local_listener_may_go_without(endpoint: str) -> None:
    """
    No token, no error.
    """
    assert token_for(endpoint, {}) is None


@pytest.mark.parametrize("endpoint", ["tcp:8001", "tcp:8001:interface=0.0.0.0", "ssl:8001:interface=10.0.0.1"])
def test_a_listener_beyond_this_machine_wants_one(endpoint: str) -> None:
    """
    It isn't started open by mistake.
    """
    with pytest.raises(ConfigError, match=TOKEN):
        token_for(endpoint, {})
    assert token_for(endpoint, {TOKEN: SECRET}) == SECRET


def test_a_token_that_can_be_guessed_is_refused() -> None:
    """
    A short one is none.
    """
    with pytest.raises(ConfigError, match="guessed"):
        token_for("tcp:8001", {TOKEN: "1234"})


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("example.org", False), ("", False)]
)
def test_what_counts_as_this_machine(host: str, local: bool) -> None:
    """
    Addresses are judged, names are not resolved.
    """
    assert is_loopback(host) is local
