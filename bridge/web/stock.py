"""
Owns the requests that httptools refuses and Twisted would not have refused, or would
have refused in another way: methods that no list knows, folded headers, endless lines.
From such a request on Twisted's own parser reads the connection.

Refuses: to be a way around the route table.  What isn't legacy's to answer is a 400.
"""

from __future__ import annotations

from typing import Any, Protocol

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
