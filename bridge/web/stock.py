"""
Owns the requests that httptools refuses and Twisted would not have refused, or would
have refused in another way: methods that no list knows, folded headers, endless lines.
From such a request on Twisted's own parser reads the connection.

Refuses: to be a way around the route table.  What isn't legacy's to answer is a 400.
"""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import Any, Protocol

import httptools
from twisted.web.http import HTTPChannel


class StockHome(Protocol):
    """
    The connection's owner.
    """

    def permits(self, method: bytes, uri: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """
        Whether legacy answers this by itself.
        """


class StockChannel(HTTPChannel):
    """
    Twisted's channel as it is, with the route table in front of the application.
    """

    requestFactory: Any
    callLater: Any
    _path: Any

    def __init__(self, site: Any, home: StockHome) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.site = self.factory = site
        self.requestFactory = site.requestFactory
        self.timeOut = site.timeOut
        self.callLater = site.reactor.callLater
        self.home = home
        self.closing = False

    def allContentReceived(self) -> None:
        headers = self.requests[-1].requestHeaders
        flat = [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
        if not self.home.permits(self._command, self._path, flat):
            self._respondToBadRequestAndDisconnect()  # type: ignore[no-untyped-call]
            return
        if self.closing:
            self.persistent = 0
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """
        The server goes down: answer what was accepted, then close.
        """
        self.closing = True
        self.persistent = 0
        if not self.requests:
            self.loseConnection()  # type: ignore[no-untyped-call]


class OpenHead:
    """
    The bytes of a request's head that isn't complete yet, so that another parser can
    have them; httptools doesn't tell where in a packet a message began.

    @ivar unread: About how many bytes of it there are.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] | None = []
        self._skip = 0
        self._unread = 0

    def fed(self, data: bytes, at: Where, completed: int) -> None:
        """
        A packet was parsed, and a head is open at its end.

        @param at: What was open when it began.
        @param completed: How many requests were completed in it.
        """
        if at is Where.BETWEEN:
            self._chunks, self._skip = [data], completed
        elif at is Where.HEAD and self._chunks is not None:
            self._chunks.append(data)
            self._skip += completed
        elif completed:
            # It began somewhere behind the end of a body.
            self._chunks, self._unread = None, 0
        elif self._chunks is None:
            self._unread += len(data)

    def bytes(self) -> bytes | None:
        """
        What there is of the open head; None if its beginning isn't known.
        """
        if self._chunks is None:
            return None
        data = b"".join(self._chunks)
        if self._skip:
            data = data[_end_of(data, self._skip) :]
        self._chunks, self._skip = [data], 0
        return data

    def longer_than(self, limit: int) -> bool:
        """
        Whether so many bytes of it are there that it must be refused.
        """
        if self._chunks is None:
            return self._unread > limit
        if sum(map(len, self._chunks)) <= limit:
            return False
        return len(self.bytes() or b"") > limit


class Where(enum.Enum):
    """
    Where in a request a packet begins.
    """

    BETWEEN = "between requests"
    HEAD = "in a head"
    BODY = "in a body"


def where(in_head: bool, in_body: bool) -> Where:
    """
    The place that these two make.
    """
    if in_head:
        return Where.HEAD
    return Where.BODY if in_body else Where.BETWEEN


class _Counter:
    def __init__(self) -> None:
        self.completed = 0

    def on_message_complete(self) -> None:
        self.completed += 1


def _end_of(data: bytes, count: int) -> int:
    """
    The length of the first C{count} requests in some bytes.

    By bisection: a parser that saw less than that has completed fewer of them.
    """
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        if _completed(data[:middle]) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def _completed(data: bytes) -> int:
    counter = _Counter()
    parser = httptools.HttpRequestParser(counter)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(data)
    return counter.completed
