"""
Owns the parsing of one connection: it feeds httptools, bounds what httptools doesn't
bound, and finds a place in the line of answers for what can't be parsed.

Refuses: to choose a road.
"""

from __future__ import annotations

from typing import Any

import httptools

from bridge.web.cycle import LegacyCycle, Refusal
from bridge.web.ordered import OrderedProtocol
from bridge.web.stock import OpenHead, Where, where

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
# Twisted's limit to a head, which httptools hasn't.
HEAD = 16384


def _chunked(cycle: Any) -> bool:
    """
    Whether a request's body has a transfer coding, so that its bytes aren't those on the wire.
    """
    headers = cycle.head[3] if isinstance(cycle, LegacyCycle) else cycle.scope["headers"]
    return any(name.lower() == b"transfer-encoding" for name, _ in headers)


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        name = name.lower()
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return True
    return False


class _Again:
    """
    A head that has an Upgrade and a body, once more without the Upgrade. For httptools, the body is what comes behind
    the upgrade; for whoever upgrades nothing (Twisted, and `curl --http2 --data` counts on it), it is the body.

    The protocol gets all of the headers. What follows on the connection is parsed as ever.
    """

    def __init__(self, protocol: ParsingProtocol, method: bytes) -> None:
        self._protocol = protocol
        self._headers: list[tuple[bytes, bytes]] | None = protocol.headers
        kept = [b"%s: %s" % each for each in protocol.headers if each[0].lower() != b"upgrade"]
        version = protocol.parser.get_http_version().encode()
        self.head = b"\r\n".join([b"%s %s HTTP/%s" % (method, protocol.url, version), *kept, b"", b""])

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, None
        if headers is not None:
            self._protocol.headers = headers
        self._protocol.on_headers_complete()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)


class ParsingProtocol(OrderedProtocol):
    """
    Parses what comes, in order.

    @ivar in_head: Whether a head has begun that isn't complete.
    @ivar in_body: Whether a head is complete, and its request isn't.
    @ivar head_limit: How many bytes a head may have that isn't complete.
    @ivar completions: How many requests the packet at hand has completed.
    @ivar body_bytes: How many of its bytes were a body's, before the first of these.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_head = False
        self.in_body = False
        self.completions = 0
        self.body_bytes = 0
        self.head_limit = HEAD
        self._open_head = OpenHead()
        self._again: _Again | None = None

    # what a subclass says

    def upgraded(self, data: bytes) -> bool:
        """
        A request with an Upgrade (or a CONNECT) is complete, and this came behind it.

        @return: Whether it is the next request.
        """
        return True

    def ask_twisted(self, raw: bytes) -> bool:
        """
        Let Twisted's own parser read the connection from here on.

        @return: Whether there is a Site to do it for.
        """
        return False

    # the parser's side

    def on_message_begin(self) -> None:
        self.in_head = True
        # uvicorn makes a scope here; one is made only where somebody will look at it.
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def postpones(self, method: bytes) -> bool:
        """
        Whether the head at hand, which has an Upgrade, has a body too: then it is not looked at yet.
        """
        if method == b"CONNECT" or not _has_body(self.headers):
            return False
        self._again = _Again(self, method)
        return True

    def feed(self, data: bytes) -> None:
        while data and not self.deaf:
            in_head, in_body = self.in_head, self.in_body
            uploading = self.cycle if in_body else None
            self.body_bytes = 0
            self.completions = 0
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                if not self.deaf:
                    self._failed(data, where(in_head, in_body), uploading)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                again, self._again = self._again, None
                if again is not None:
                    self.parser = httptools.HttpRequestParser(again)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    data = again.head + data
                elif not self.upgraded(data):
                    return
            else:
                if self.in_head:
                    self._begun(data, where(in_head, in_body), uploading)
                    if self._open_head.longer_than(self.head_limit):
                        self._malformed(self._open_head.bytes())
                return

    def _begun(self, data: bytes, at: Where, uploading: Any) -> None:
        """
        A head is open that is to be remembered.
        """
        completed = self.completions
        if at is Where.BODY and completed and not _chunked(uploading):
            # What isn't that body's is behind it, byte for byte.
            data, at, completed = data[self.body_bytes :], Where.BETWEEN, completed - 1
        self._open_head.fed(data, at, completed)

    def _failed(self, data: bytes, at: Where, uploading: Any) -> None:
        if self.in_body or (at is Where.BODY and not self.completions):
            # What Twisted would say of a broken body is known.
            self._malformed(None)
        else:
            self._begun(data, at, uploading)
            self._malformed(self._open_head.bytes())

    # refusals

    def _malformed(self, raw: bytes | None) -> None:
        """
        @param raw: What the parser failed at, from the first byte of the request on.
        """
        cycle = self.cycle
        if self.pipeline and self.in_body and self.pipeline[0][0] is cycle:
            # It waits in the line, and the rest of it will never come.
            self.pipeline.popleft()
        if self.pipeline or (self.busy() and not (self.in_body and cycle is self.current)):
            self.queue_refusal(raw)
        else:
            self.refuse(raw)

    def queue_refusal(self, raw: bytes | None) -> None:
        self.cycle = Refusal(raw)
        self.queue(self.cycle)
        # What comes after it can't be understood before it is its turn.
        self.held = []

    def refuse(self, raw: bytes | None) -> None:
        if raw is not None and self.ask_twisted(raw):
            return
        self.deaf = True
        if not getattr(self.current, "response_started", False):
            self.transport.write(BAD_REQUEST)
        self.transport.close()
