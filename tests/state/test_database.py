"""
How a state database is spoken of.
"""

from __future__ import annotations

from bridge.state.database import shown_url


def test_a_password_is_never_shown():
    """
    What people are told of a database's URL has no password in it.
    """
    shown = shown_url("postgresql://user:hunter2@host/name")

    assert "hunter2" not in shown
    assert "host/name" in shown
