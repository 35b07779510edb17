"""
What strangers write into names, reasons and requests does nothing to a terminal.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.cli.harmless import harmless
from bridge.state import Store
from tests.cli.conftest import Bgctl

EXPORT = "GET /export/{export_id}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\nc\x07\x9b", "a\\rb\\nc\\x07\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u061ctxt.exe", "\\u061ctxt.exe"),
        ("\ud800", "\\ud800"),
        ("größe 日本 é 👍", "größe 日本 é 👍"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    """
    Everything that can be read stays as it is.
    """
    assert shown == harmless(text)
    assert {"a": [shown, 1, None]} == harmless({"a": [text, 1, None]})


def test_a_request_cannot_write_on_the_operators_terminal(folder: Path, bgctl: Bgctl) -> None:
    """
    A client chooses what a sample shows: an escape in it must not clear the screen of who looks at it. A command keeps
    its lines.

    Seen to fail where what was stored was printed.
    """
    bgctl("set", EXPORT, "shadow", "--why", "\x1b[31mred")
    kept = Store.open(f"sqlite:///{folder / 'state.db'}")
    kept.add_counts(EXPORT, "code1", {"shadow.different": 1}, 1.0)
    kept.add_fingerprints(EXPORT, "code1", [("f", "value", "$.\x1b]0;owned\x07", 1)], 1.0)
    found = {"fingerprint": "f", "path": "$.a", "legacy": "\x1b[8m", "modern": "\x9b2J\ud800"}
    sample = {"curl": "curl --data-binary 'a\nb\x1b[2J'", "differences": [found]}
    kept.add_sample(EXPORT, "code1", "f", json.dumps(sample), 1.0)

    said = bgctl("parity", EXPORT), bgctl("report"), bgctl("audit"), bgctl("route", EXPORT)

    assert [0, 0, 0, 0] == [each.status for each in said]
    assert not any(char in each.out for each in said for char in "\x1b\x9b\x07")
    assert "'a\nb\\x1b[2J'" in said[0].out
    assert "\x1b" in json.loads(bgctl("audit", "--json").out)[0]["why"]
