"""
Owns how a request of the hot road is shown to whoever watches it: what it would be as an
ASGI scope, and what its channel and its Request tell.

Refuses: to decide who watches, and to be there where nobody does.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import httptools

from bridge.parity.observe import Ending, Headers, Watch
from bridge.web.asgi_road import AsgiRoadProtocol
from bridge.web.channel import Channel
from bridge.web.cycle import LegacyCycle


def scope_of(connection: AsgiRoadProtocol) -> MutableMapping[str, Any] | None:
    """
    The scope that the request whose head is complete would have, had it taken the other road.

    @return: None if ASGI has no words for it.
    """
    parser = connection.parser
    headers = [(name.lower(), value) for name, value in connection.headers]
    try:
        scope: MutableMapping[str, Any] = connection.scope_of(parser.get_method(), parser.get_http_version(), headers)
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return None
    if connection.proxies is not None:
        connection.proxies.believe(scope)
    return scope


class _Recorder:
    """
    A watch, as a channel's recorder. It looks by itself whether the body is complete, so that
    requests which nobody watches aren't asked at their end.
    """

    def __init__(self, watch: Watch, cycle: LegacyCycle) -> None:
        self._watch = watch
        self._cycle = cycle
        self.wrote = watch.wrote

    def started(self, status: int, headers: Headers, at: float) -> None:
        self._look()
        self._watch.started(status, headers, at)

    def closed(self, how: Ending, at: float, error: str = "") -> None:
        self._look()
        self._watch.closed(how, at, error)

    def _look(self) -> None:
        if not self._cycle.more_body:
            self._watch.heard_all()


def begin_watched(channel: Channel, cycle: LegacyCycle) -> bool:
    """
    Begin a request that is watched: C{Channel.begin}, with the watch told of it.

    @return: False if the channel refused it.
    """
    watch = cycle.watch
    assert watch is not None
    watch.begins()
    channel.recorder, channel.clock = _Recorder(watch, cycle), watch.clock
    if not channel.begin(*cycle.head):
        # As the same channel says it behind ASGI, where no answer is without headers.
        channel.recorder.started(400, [(b"Content-Length", b"0"), (b"Connection", b"close")], watch.clock())
        channel.record(Ending.COMPLETE)
        return False
    if watch.effect is not None:
        request: Any = channel.requests[-1]
        request.bgserverEffects = watch.effect
        request.bgserverHold = watch.hold
    return True
