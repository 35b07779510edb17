"""
Owns one request of the hot road, as far as uvicorn's bookkeeping looks at it, and the
question whether this uvicorn is one whose bookkeeping is known.

Refuses: any behaviour; the protocol and the channel have it.
"""

from __future__ import annotations

from typing import Any

import uvicorn

from bridge.parity.observe import Watch

# The first release that was tested, and the first one that wasn't.
UVICORN = ((0, 50), (0, 55))


def uvicorn_known(version: str = uvicorn.__version__) -> bool:
    """
    Whether this uvicorn is one that the hot road was tested with.
    """
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return UVICORN[0] <= parts < UVICORN[1]


class _Quiet:
    """
    An event that nobody waits for: uvicorn sets one on each cycle.
    """

    def set(self) -> None: ...


class LegacyCycle:
    """
    What stands in the line of requests for one that legacy answers.

    @ivar head: Method, URI, version and headers, as C{Channel.begin} takes them.
    @ivar chunks: The body's pieces, while others are answered before it.
    @ivar more_body: Whether the request isn't complete yet.
    @ivar watch: Who sees it; nearly always nobody.
    """

    __slots__ = ("chunks", "disconnected", "head", "keep_alive", "more_body", "response_complete", "watch")
    message_event = _Quiet()

    def __init__(self, head: Any) -> None:
        self.head = head
        self.chunks: list[bytes] | None = None
        self.watch: Watch | None = None
        self.more_body = True
        self.response_complete = False
        self.keep_alive = True
        self.disconnected = False


class Refusal(LegacyCycle):
    """
    The place in the line of what httptools can't parse.

    @ivar head: Its bytes from the first one on, for Twisted's own parser; None if they
        aren't known, so that only a 400 is left.
    """

    __slots__ = ()
