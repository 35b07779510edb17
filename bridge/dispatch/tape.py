"""
Owns the tape of one request's body: what the answering side reads is kept, within
a limit, so that the other side can be given the same.

Refuses: to read ahead, to slow the answering side down, or to guess.  A body that
was not read to its end, or was too long, can't be replayed, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs

from bridge.dispatch.asgi import Message, Receive, Scope
from bridge.dispatch.trial import Dropped


@attrs.define(eq=False)
class Tape:
    """
    What is kept of one body.

    @ivar ended: Whether it came to its end.
    """

    limit: int
    chunks: list[bytes] = attrs.field(factory=list)
    size: int = 0
    ended: bool = False

    def keep(self, body: bytes) -> None:
        """
        The next part of it.
        """
        self.size += len(body)
        if self.size <= self.limit:
            self.chunks.append(bytes(body))
        else:
            self.chunks.clear()

    def missing(self, scope: Scope) -> Dropped | None:
        """
        Why the body of that request is not whole on the tape; None if it is.
        """
        if self.size > self.limit:
            return Dropped.LONG_BODY
        if self.ended or (not self.size and not announces_body(scope)):
            return None
        return Dropped.UNREAD_BODY


def announces_body(scope: Scope) -> bool:
    """
    Whether a request's headers say that a body follows.
    """
    for name, value in scope.get("headers", ()):
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
    return False


@attrs.define(eq=False)
class Received:
    """
    C{receive} for the answering side, whose body is kept on a tape.

    @ivar left: Whether the client went away.
    """

    source: Receive
    tape: Tape
    left: bool = False

    async def receive(self) -> Message:
        """
        Pass the next message on.
        """
        message = await self.source()
        if message["type"] == "http.request":
            body = message.get("body", b"")
            if body:
                self.tape.keep(body)
            if not message.get("more_body", False):
                self.tape.ended = True
        elif message["type"] == "http.disconnect":
            self.left = True
        return message


@attrs.define(eq=False)
class Replay:
    """
    C{receive} for a shadow: the taped body, and then silence until it is told to end.

    A disconnect straight after the body would cut every stream short, since servers
    listen for it while they send.
    """

    chunks: Sequence[bytes]
    _next: int = 0
    _over: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def receive(self) -> Message:
        """
        The next part of the body; when there is none, the end.
        """
        if self._over.is_set():
            return {"type": "http.disconnect"}
        place, last = self._next, max(len(self.chunks) - 1, 0)
        if place <= last:
            self._next = place + 1
            body = self.chunks[place] if self.chunks else b""
            return {"type": "http.request", "body": body, "more_body": place < last}
        await self._over.wait()
        return {"type": "http.disconnect"}

    def end(self) -> None:
        """
        From now on the client is gone.
        """
        self._over.set()
