"""
A reader of GET /events: the bytes as they come, cut into events.
"""

from __future__ import annotations

import contextlib
import socket
import time

import attrs

from tests.contract.wire import request_bytes


@attrs.define
class Stream:
    """
    One open event stream. `head` are the answer's status line and headers, in lower case.
    """

    _socket: socket.socket
    head: list[str]
    chunked: bool
    _raw: bytes = b""
    _text: bytes = b""

    @classmethod
    def open(cls, address: tuple[str, int], *headers: str) -> Stream:
        return cls.over(socket.create_connection(address, timeout=30), address, *headers)

    @classmethod
    def over(cls, connection: socket.socket, address: tuple[str, int], *headers: str) -> Stream:
        """
        The same on a connection that the caller has made.
        """
        connection.sendall(request_bytes("GET", "/events", f"{address[0]}:{address[1]}", headers, keep=True))
        raw = b""
        while b"\r\n\r\n" not in raw:
            data = connection.recv(65536)
            assert data, f"the server closed after {raw!r}"
            raw += data
        head, _, rest = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        stream = cls(connection, lines, "transfer-encoding: chunked" in lines, rest)
        stream._unchunk()
        return stream

    def close(self) -> None:
        self._socket.close()

    def block(self, timeout: float = 30.0) -> str:
        """
        The next block up to its blank line, which is taken off.
        """
        deadline = time.monotonic() + timeout
        while b"\n\n" not in self._text:
            left = deadline - time.monotonic()
            assert left > 0, f"no block within {timeout:g} s; so far {self._text!r}"
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                data = self._socket.recv(65536)
                assert data, f"the stream ended after {self._text!r}"
                self._raw += data
                self._unchunk()
        block, _, self._text = self._text.partition(b"\n\n")
        return block.decode()

    def event(self, timeout: float = 30.0) -> str:
        """
        The next block that is no comment.
        """
        while (block := self.block(timeout)).startswith(":"):
            assert ": keep-alive" == block
        return block

    def _unchunk(self) -> None:
        if not self.chunked:
            self._text += self._raw
            self._raw = b""
            return
        while True:
            size, end, rest = self._raw.partition(b"\r\n")
            if not end or len(rest) < int(size, 16) + 2:
                return
            self._text += rest[: int(size, 16)]
            self._raw = rest[int(size, 16) + 2 :]
