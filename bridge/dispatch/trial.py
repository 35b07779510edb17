"""
Owns the facts that pass from the shadows to whoever judges them.

Refuses: to judge.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from bridge.dispatch.asgi import Scope
from bridge.parity.observe import Effect, Observation
from bridge.routing import Decision


class Dropped(enum.Enum):
    """
    Why a request that should have been shadowed was not; each is counted.
    """

    FULL = "full"  # too many requests wait
    HEAVY = "heavy"  # those that wait hold too many bytes
    LONG_BODY = "long_body"  # the request's body is past the tape's limit
    FOREIGN = "foreign"  # only legacy understands the request: ASGI has no words for it
    UNREAD_BODY = "unread_body"  # the answering side left the body unread
    OPEN = "open"  # the route's shadows ran out of time again and again
    UNSEEDED = "unseeded"  # the sandbox is being seeded
    ABSENT = "absent"  # there is nothing to shadow with
    CLOSED = "closed"  # the server stops
    UNJUDGED = "unjudged"  # it was run, and comparing it failed


@attrs.frozen
class Request:
    """
    The request that a pair is about, as it came.
    """

    scope: Scope
    chunks: Sequence[bytes]

    @property
    def body(self) -> bytes:
        """
        All of its body.
        """
        return b"".join(self.chunks)


@attrs.frozen
class Trial:
    """
    One request's observations, complete.

    @ivar answer: What the client got, from C{decision.answers}.
    @ivar other: What C{decision.shadows} would have answered.
    @ivar replicate: The answering side's second answer, from which noise is known;
        None where it could not be had.
    @ivar stored: The effects read from the two sandboxes: the answering side's, the
        other's; None where no store was read.
    """

    decision: Decision
    request: Request
    answer: Observation
    other: Observation
    replicate: Observation | None = None
    stored: tuple[tuple[Effect, ...], tuple[Effect, ...]] | None = None
