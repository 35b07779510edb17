"""
What a canary sticks to, out of a scope.
"""

from __future__ import annotations

import pytest

from bridge.dispatch.asks import ScopeAsks
from bridge.routing import Selector

SCOPE = {
    "client": ("192.0.2.7", 5),
    "headers": [(b"x-id", b"1"), (b"x-id", b"2"), (b"cookie", b'a=b; sid="x=y"; c'), (b"cookie", b"d=e")],
}


@pytest.mark.parametrize(
    "selector, expected",
    [
        ("client", b"192.0.2.7"),
        ("header:X-Id", b"1,2"),
        ("header:x-none", b""),
        ("cookie:sid", b"x=y"),
        ("cookie:d", b"e"),
        ("cookie:c", b""),
        ("cookie:none", b""),
        ("path:id", b""),
    ],
)
def test_subjects(selector, expected):
    """
    The bytes as they came; nothing where there is nothing.
    """
    assert expected == ScopeAsks(SCOPE).subject(Selector.parse(selector))


def test_nobody():
    """
    A UNIX socket's client has no address.
    """
    assert b"" == ScopeAsks({"client": None}).subject(Selector.parse("client"))


def test_dice():
    """
    A throw lies between 0 and 1.
    """
    assert 0 <= ScopeAsks({}).dice() < 1
