"""
Owns the tee: what the answering side sends goes to the client first, and is then
shown to a recorder.

Refuses: to change, delay, buffer or refuse a message.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bridge.dispatch.asgi import Message, Send
from bridge.parity.observe import Recorder


@attrs.define(eq=False)
class Tee:
    """
    A C{send} that a recorder watches.

    @ivar after: Called after each part of the body, with whether it was the last.
    @ivar over: Whether the answer came to its end.
    """

    _send: Send
    _recorder: Recorder
    _clock: Callable[[], float]
    _after: Callable[[bool], None]
    over: bool = False

    async def send(self, message: Message) -> None:
        """
        Pass it on, and then show it.
        """
        # The client first: what couldn't be sent was never seen.
        await self._send(message)
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            if body:
                self._recorder.wrote(body)
            if not message.get("more_body", False):
                self.over = True
            self._after(self.over)
        elif kind == "http.response.start":
            self._recorder.started(message["status"], message.get("headers", ()), self._clock())
