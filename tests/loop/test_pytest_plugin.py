"""
The pytest plugin: Deferred-side tests on the bridged reactor, plain tests unharmed.
"""

from __future__ import annotations

import sys

from tests.loop.snippets import both_loops, finish

TESTS = """
import asyncio
import pytest
import pytest_twisted
from twisted.internet import defer

def test_plain_before():
    assert asyncio.run(asyncio.sleep(0, 1)) == 1

@pytest_twisted.async_yield_fixture
async def resource():
    from twisted.internet import reactor
    await asyncio.sleep(0)
    yield reactor
    await asyncio.sleep(0)

@pytest_twisted.ensureDeferred
async def test_waits(resource):
    from bridge.loop import BridgeReactor, as_deferred
    from twisted.internet import task
    assert isinstance(resource, BridgeReactor)
    assert await task.deferLater(resource, 0.01, lambda: 2) == 2
    assert await as_deferred(asyncio.sleep(0.01, 2)) == 2

def test_plain_after():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert asyncio.run(asyncio.sleep(0, 3)) == 3

@pytest_twisted.inlineCallbacks
def test_generator():
    from bridge.loop import as_deferred
    assert (yield as_deferred(asyncio.sleep(0, 4))) == 4

def test_plain_at_last():
    assert asyncio.run(asyncio.sleep(0, 5)) == 5
"""


@both_loops
def test_plain_and_deferred_tests_run_side_by_side(loop, tmp_path):
    """
    Marked tests run in the bridged reactor; before, between and after them, `asyncio.run` works. With pytest-twisted
    alone, it fails.
    """
    (tmp_path / "test_mixed.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]

    ours = finish([*command, "-p", "bridge.testing.plugin"], env={"BGSERVER_TEST_LOOP": loop}, cwd=tmp_path)
    only_twisted = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    theirs = finish([*command, "-p", "pytest_twisted", "--reactor=asyncio"], env=only_twisted, cwd=tmp_path)

    assert ours.passed, ours.out + ours.err
    assert "5 passed" in ours.out
    assert "failed" in theirs.out
