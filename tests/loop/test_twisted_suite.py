"""
Twisted's own tests, on our reactor and on the stock asyncio reactor. docs/loop.md has the result.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.loop.snippets import suite

#: The short form: what is closest to a reactor's heart, without sockets.
SHORT = ["twisted.internet.test.test_core", "twisted.internet.test.test_time", "twisted.internet.test.test_threads"]
WHOLE = [
    "twisted.internet.test",
    "twisted.test.test_defer",
    "twisted.test.test_threadpool",
    "twisted.test.test_threads",
]


def _failures(outcome: dict[str, Any] | None) -> set[str]:
    assert outcome is not None, "the suite didn't end"
    return {re.sub(r"_(Bridge|Stock)(Asyncio|Uvloop)Tests", "", name) for name in outcome["failed"]}


def _compared(kind: str, names: list[str], timeout: float) -> None:
    ours, theirs = suite(kind, *names, timeout=timeout), suite("stock-asyncio", *names, timeout=timeout)

    assert set() == _failures(ours) - _failures(theirs)
    assert ours["ran"] == theirs["ran"]


@pytest.mark.parametrize("kind", ["bridge-asyncio", "bridge-uvloop"])
def test_twisteds_tests_pass_in_short(kind):
    """
    Running, stopping, triggers, signals, time and threads: no failure that the stock reactor doesn't have.
    """
    _compared(kind, SHORT, timeout=100)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["bridge-asyncio", "bridge-uvloop"])
def test_twisteds_tests_pass_as_a_whole(kind):
    """
    All of `twisted.internet.test`, and Twisted's tests of Deferreds and threads: no failure that the stock reactor
    doesn't have.
    """
    _compared(kind, WHOLE, timeout=800)
