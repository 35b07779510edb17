"""
Owns the answer that an application speaks by itself: on a connection that it took over it
writes bytes, and behind ASGI they are read here as the HTTP that they have to be.

Refuses: what isn't an answer to a request, like another protocol after a 101, for which ASGI
has no words; what comes behind the answer, for which it has none either; and to know who hears it.
"""

from __future__ import annotations

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from bridge.web.virtual import Message

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class SpokenAnswer:
    """
    One answer, as it comes.

    @ivar over: Whether it is complete by what it said of its length.
    @ivar open: Whether its end is where the connection ends.
    """

    def __init__(self, without: frozenset[bytes], to_head: bool = False) -> None:
        """
        @param without: Headers that the server says by itself.
        @param to_head: Whether a HEAD is answered: whatever the headers say, no body follows.
        """
        self._without = without
        self._to_head = to_head
        self._parser: Any = HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._made: list[Message] = []
        self.over = False
        self.open = False

    def heard(self, data: bytes) -> list[Message]:
        """
        What some more bytes are in ASGI.

        @raise ConnectionAbortedError: If they aren't HTTP.
        """
        if self.over:
            return []
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.over:
                raise ConnectionAbortedError(
                    "What the application said on its connection is no answer in HTTP"
                ) from error
        made, self._made = self._made, []
        return made

    # the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        status = self._parser.get_status_code()
        if status < 200 or self.over:
            # 100 is the server's to say, and after 101 comes something else.
            return
        self.open = not any(name.lower() in _FRAMING for name, _ in headers)
        kept = [(name, value) for name, value in headers if self._kept(name)]
        self._made.append({"type": "http.response.start", "status": status, "headers": kept})
        self.over = self._to_head

    def _kept(self, name: bytes) -> bool:
        # The server frames the body, and says some things of its own.
        return name not in self._without and name.lower() != b"transfer-encoding"

    def on_body(self, body: bytes) -> None:
        if not self.over:
            self._made.append({"type": "http.response.body", "body": body, "more_body": True})

    def on_message_complete(self) -> None:
        self.over = self.over or self._parser.get_status_code() >= 200
