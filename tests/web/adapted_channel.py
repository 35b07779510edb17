"""
Our protocol in the clothes of C{twisted.web.http.HTTPChannel}, for tests that make a
channel by themselves and feed it bytes.

Everything but construction and the three calls of a connection is SiteProtocol's and its
channel's.  What such a test looks up inside the channel it finds in ours, where it is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, _NoPushProducer

from bridge.web.facade import HostProtocol
from bridge.web.front import Road
from bridge.web.site_protocol import SiteProtocol

# What is a channel's own from its birth, and not the test's.
_BORN = frozenset(HTTPChannel().__dict__) | {"_host", "transport", "_networkProducer"}
# What is asked of the channel within, once there is one.
_WITHIN = frozenset(
    ("requests", "persistent", "length", "pauseProducing", "resumeProducing", "stopProducing", "loseConnection")
)


class _ClockLoop:
    """
    The loop, with the time of a test's own clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Any) -> None:
        self._loop = loop
        self._clock = clock

    def time(self) -> float:
        found: float = self._clock.seconds()
        return found

    def call_later(self, delay: float, call: Any, *args: Any) -> Any:
        return _Timer(self._clock.callLater(delay, call, *args))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class _Timer:
    def __init__(self, call: Any) -> None:
        self._call = call

    def cancel(self) -> None:
        if self._call.active():
            self._call.cancel()


class _Around:
    """
    What a Site would be to this channel: its factory, or one like it, with whatever the
    test has put on the channel itself.
    """

    def __init__(self, channel: Any) -> None:
        given = {name: value for name, value in channel.__dict__.items() if name not in _BORN}
        self._channel = channel
        self._factory = channel.factory or HTTPFactory(reactor=channel.reactor())
        own = type("HTTPChannel", (HTTPChannel,), given | _patched(type(channel)))
        self.protocol: Any = own
        self.buildProtocol = lambda addr: own()

    @property
    def requestFactory(self) -> Any:
        return self._channel.requestFactory

    @property
    def timeOut(self) -> Any:
        return self._channel.timeOut

    @property
    def reactor(self) -> Any:
        return self._channel.reactor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)


def _patched(kind: type) -> dict[str, Any]:
    return {name: vars(kind)[name] for name in ("maxHeaders", "totalHeadersSize") if name in vars(kind)}


def adapted_channel(config: Any, state: Any, reactor: Any) -> type:
    """
    The class that stands for HTTPChannel.
    """
    loop: asyncio.AbstractEventLoop = reactor.loop

    class Adapted(HTTPChannel):
        def reactor(self) -> Any:
            """
            Whose clock it is: the test's, where it gave one.
            """
            given = self.__dict__.get("callLater")
            clock = getattr(given, "__self__", None)
            if isinstance(clock, HTTPFactory):
                clock = None
            return clock if clock is not None else getattr(self.factory, "reactor", None) or reactor

        def makeConnection(self, transport: Any) -> None:
            around = _Around(self)
            timed: Any = loop if around.reactor is reactor else _ClockLoop(loop, around.reactor)

            def make() -> asyncio.Protocol:
                made: asyncio.Protocol = SiteProtocol(config, state, {}, timed, road=Road(around), look=False)
                return made

            self.transport = transport
            self._networkProducer = IPushProducer(transport, _NoPushProducer())
            self._host = HostProtocol(make)
            self._host.makeConnection(transport)

        def dataReceived(self, data: bytes) -> None:
            self._host.dataReceived(data)

        def connectionLost(self, reason: Any = None) -> None:
            # Some tests say why in their own words.
            known = reason if reason is None or isinstance(reason, Failure) else Failure(reason)
            self._host.connectionLost(known)

        def __getattribute__(self, name: str) -> Any:
            own = object.__getattribute__(self, "__dict__")
            if "_host" in own and name in _WITHIN:
                inner = own["_host"].inner
                channel = getattr(inner, "_stock", None) or getattr(inner, "_channel", None)
                if channel is not None:
                    return getattr(channel, name)
            return object.__getattribute__(self, name)

    Adapted.__name__ = "HTTPChannel"
    return Adapted
