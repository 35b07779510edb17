"""
Whom bgctl asks, where the policy or the address of a server is what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.routing import Stage
from tests.cli.conftest import Bgctl, Serving

EXPORT = "GET /export/{export_id}"


def test_a_named_server_is_asked_though_the_policy_is_broken(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving]
) -> None:
    """
    In the worst night the file may be what is broken, and the way back must not hang on it. Without a name the error
    says how to go on.
    """
    there = serve()
    bgctl("set", EXPORT, "modern", "--force", "--why", "walk")
    (folder / "bgserver.toml").write_text("listen = [")

    unnamed = bgctl("rollback", "--all", "--why", "worst night")
    named = bgctl("rollback", "--all", "--why", "worst night", "--admin", f"http://127.0.0.1:{there.port}")

    assert (3, True) == (unnamed.status, "--admin URL" in unnamed.err)
    assert 0 == named.status
    assert Stage.LEGACY is there.table.value.route(EXPORT).stage


@pytest.mark.parametrize("address", ["garbage", "http://127.0.0.1:abc", "tcp", "ftp://127.0.0.1:1", "http://"])
def test_what_is_no_address_is_refused_by_name(bgctl: Bgctl, address: str) -> None:
    """
    One line that says what can be written; seen to end in a traceback.
    """
    said = bgctl("status", "--admin", address)

    assert 3 == said.status
    assert "--admin" in said.err
    assert repr(address) in said.err


def test_the_shipped_policy_is_never_taken_in_silence(folder: Path, bgctl: Bgctl) -> None:
    """
    Without a bgserver.toml it is the example's, and a server may run by another one.
    """
    assert "example" not in bgctl("status").err
    (folder / "bgserver.toml").unlink()

    assert "this is the policy of the shipped example" in bgctl("status").err
