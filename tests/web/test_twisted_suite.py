"""
Twisted's own tests of twisted.web pass on our listeners and channels as on its own.

Every test file runs natively and here, in a process of its own: with every Site that listens
served by a front, with every protocol that a Site builds being ours, and with every
HTTPChannel that a test makes by itself being ours, over the transports in memory that the
tests bring.

HTTP/2 isn't offered (docs/wire.md), so the one of its tests that asks a server for it fails here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITES = ["web", "websocket", "xmlrpc", "static", "proxy", "cgi", "distrib"]
CHANNELS = ["http"]
# Few of these know a server at all; that they pass shows that nothing else is touched.
OTHERS = [
    *("resource", "pages", "error", "util", "vhost", "wsgi", "httpauth", "script", "template", "flatten"),
    *("http_headers", "client", "domhelpers", "html", "stan", "xml", "abnf", "web__responses"),
    # The last one, because it fires the reactor's shutdown by hand: our threads end with that for good.
    "tap",
]
CLIENTS = ["agent", "newclient", "webclient"]
# What only a channel of Twisted's own in memory can show.
IN_MEMORY = {
    "twisted.web.test.test_web.SiteTest.test_buildProtocol": "looks into the channel's attributes",
    "twisted.web.test.test_websocket.WebSocketTests.test_backpressure": (
        "expects the application's producer on the transport itself; asyncio's face is between them"
    ),
    "twisted.web.test.test_websocket.WebSocketTests.test_connectionRefusedSlow": (
        "looks before the loop has gone round, when headers without a body are still held"
    ),
}
_CHANNEL = "twisted.web.test.test_http."
_PRIVATE = "changes a private limit of the channel, which ours has as a constant"
_IDENTITY = "expects the channel itself to be the transport's producer; the asyncio face is between them"
_SWITCH = "negotiates HTTP/2 in memory, and looks at the timer or the producer of the channel that is replaced"
_LATE = "hangs up behind the request line, which is refused with its head: `late-refusal` in docs/wire.md"
# The same for channels that a test makes by itself.
MADE_BY_HAND = {
    "ChannelProductionTests.test_HTTPChannelIsAProducer": _IDENTITY,
    "ChannelProductionTests.test_HTTPChannelUnregistersSelfWhenTimingOut": _IDENTITY,
    "ChannelProductionTests.test_HTTPChannelPropagatesPausedProductionToRequest": _PRIVATE,
    "ChannelProductionTests.test_HTTPChannelStaysPausedWhenRequestCompletes": _PRIVATE,
    "RequestTests.test_finishCleansConnection": _PRIVATE,
    "ChannelProductionTests.test_HTTPChannelToleratesDataWhenTransportPaused": (
        "pauses a channel before its first request, when ours isn't made yet"
    ),
    "ChannelProductionTests.test_HTTPChannelToleratesPullProducers": (
        "looks before the loop has gone round, when the head and the first parts are still held"
    ),
    # Natively skipped where there is no `h2`.
    "GenericHTTPChannelTests.test_h2CancelsH11Timeout": _SWITCH,
    "GenericHTTPChannelTests.test_unregistersProducer": _SWITCH,
    "HTTP0_9Tests.test_buffer": _LATE,
    "HTTP0_9Tests.test_noPipeliningApi": _LATE,
    "ParsingTests.test_invalidRequestLineExtraSpaces": "`spaces` in docs/wire.md",
    "PipeliningBodyTests.test_pipeliningReadLimit": (
        "reads ahead by packets: 16 KiB behind the first one, where Twisted counts that one too"
    ),
}
# What asks a server for HTTP/2: `http2` in docs/wire.md.
NOT_OFFERED = "twisted.web.test.test_http2.EndToEndTests.test_realRequest"
# Their transport is a BytesIO that can't pause anybody.
NO_TRANSPORT = "twisted.web.test.test_web.ConditionalTests."


def run(mode: str, modules: list[str]) -> dict[str, Any]:
    names = [f"twisted.web.test.test_{name}" for name in modules]
    # These tests leave folders where they run.
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run(
            [sys.executable, "-m", "tests.web.adapted_suite", mode, *names],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "GIVE_UP": "280"},
            capture_output=True,
            text=True,
        )
    assert "SUITE " in said.stdout, said.stderr[-3000:]
    found: dict[str, Any] = json.loads(said.stdout.rpartition("SUITE ")[2])
    return found


@pytest.fixture(scope="module")
def native() -> set[str]:
    return set(run("native", SITES)["passed"])


@pytest.mark.slow
def test_listening(native: set[str]) -> None:
    """
    The same tests pass where Sites listen on the front.
    """
    found = run("listened", SITES)

    assert native - set(found["passed"]) == set()


@pytest.mark.slow
def test_channels() -> None:
    """
    The tests of HTTPChannel and Request pass on our protocol, but for those that are listed.
    Before TCP's options were only asked of TCP, 25 more failed: over a wrapped UNIX socket,
    or in memory, a bad request was hung up on.
    """
    lost = set(run("native", CHANNELS)["passed"]) - set(run("channels", CHANNELS)["passed"])

    assert {_CHANNEL + name for name in MADE_BY_HAND} == lost


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("modules", [OTHERS, CLIENTS], ids=["others", "clients"])
def test_everything_else(modules: list[str]) -> None:
    """
    All other tests of twisted.web pass as natively.
    """
    native = set(run("native", modules)["passed"])

    for mode in ("listened", "channels"):
        assert set() == native - set(run(mode, modules)["passed"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["listened", "channels"])
def test_http2(mode: str) -> None:
    """
    Twisted's own HTTP/2 goes on working beside ours, for who uses it; our listeners offer none.
    """
    native = set(run("native", ["http2"])["passed"])

    assert 67 <= len(native)
    assert {NOT_OFFERED} == native - set(run(mode, ["http2"])["passed"])


@pytest.mark.slow
def test_built(native: set[str]) -> None:
    """
    The same tests pass on our protocol in memory, but for those that are listed.
    """
    found = run("built", SITES)

    lost = native - set(found["passed"])
    assert {name for name in lost if not name.startswith(NO_TRANSPORT)} == set(IN_MEMORY)
