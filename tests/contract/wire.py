"""
The runner's own HTTP/1.1 client: it sends exactly the bytes that a case says, and refuses an answer that is not framed.

It reads while it sends, so that a server may answer before it has read the body. It follows no redirect, decodes no
content, and guesses nothing.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence

import attrs

TIMEOUT = 20.0  # seconds for one whole exchange


class WireError(Exception):
    """
    What came back is no HTTP answer, or an incomplete one.
    """


@attrs.frozen
class Answer:
    """
    One answer as it came: header names in lower case, the body without its framing.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    closed: bool

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each == name]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if len(values) == 1 else None if not values else "\n".join(values)


def request_bytes(
    method: str,
    target: str,
    host: str,
    headers: Sequence[str] = (),
    body: bytes | None = None,
    chunks: Sequence[bytes] | None = None,
    keep: bool = False,
) -> bytes:
    """
    A request: the lines of `headers` as they are, and of Host, Connection and the framing what they do not name.
    """
    given = {line.partition(":")[0].strip().lower() for line in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {host}")
    lines += headers
    if not keep and "connection" not in given:
        lines.append("Connection: close")
    if chunks is not None:
        lines.append("Transfer-Encoding: chunked")
        framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    else:
        framed = body or b""
        if body is not None and "content-length" not in given:
            lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + framed


@attrs.define
class Connection:
    """
    One connection to `address`, on which requests follow each other.
    """

    address: tuple[str, int]
    timeout: float = TIMEOUT
    _socket: socket.socket = attrs.field(init=False)
    _unread: bytearray = attrs.Factory(bytearray)
    _ended: bool = False

    def __attrs_post_init__(self) -> None:
        self._socket = socket.create_connection(self.address, timeout=self.timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def exchange(self, data: bytes, method: str, keep: bool = False) -> Answer:
        """
        Send `data` and read its answer. Without `keep` the server must close, and nothing may follow the answer.
        """
        deadline = time.monotonic() + self.timeout
        unsent = memoryview(data)
        answer: Answer | None = None
        while answer is None or not (keep or self._ended):
            unsent = unsent[self._pump(unsent, deadline) :]
            # A long body is not looked at before it is whole.
            if answer is None and (len(self._unread) >= self._wanted or self._ended):
                answer = self._parse(method)
            if answer is None and self._ended:
                raise WireError(f"the server closed after {self._excerpt()}")
            if answer is not None and self._unread:
                break
        if self._unread:
            raise WireError(f"{self._excerpt()} follows the answer {answer.status if answer else ''}")
        return attrs.evolve(answer, closed=self._ended)

    _wanted: int = attrs.field(default=0, init=False)

    def _excerpt(self) -> str:
        return repr(bytes(self._unread[:200]))

    def _pump(self, unsent: memoryview, deadline: float) -> int:
        """
        Read and write once, whichever is possible; how much was written.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise WireError(f"no whole answer within {self.timeout:g} s; so far {self._excerpt()}")
        # Not select(), which knows a thousand descriptors.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if unsent else 0))
        [(_, ready)] = poll.poll(left * 1000) or [(0, 0)]
        if ready & ~select.POLLOUT:
            try:
                data = self._socket.recv(262144)
            except ConnectionResetError:
                data = b""
            self._ended = self._ended or not data
            self._unread += data
        elif ready:
            try:
                return self._socket.send(unsent[:262144])
            except (BrokenPipeError, ConnectionResetError):
                return len(unsent)  # it has answered and closed: what it said can still be read
        return 0

    def _parse(self, method: str) -> Answer | None:
        """
        The answer at the front of what was read, which is taken off; None while it is not whole.
        """
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._unread[:end].decode("latin-1").split("\r\n")
        status_line = re.fullmatch(r"HTTP/1\.1 ([1-9][0-9]{2})(?: .*)?", first)
        if status_line is None:
            raise WireError(f"{first!r} is no status line")
        status = int(status_line[1])
        if 100 <= status < 200:
            del self._unread[: end + 4]
            return self._parse(method)
        headers = tuple(_header(line) for line in lines)
        body = self._body(status, method, dict(headers), end + 4)
        return None if body is None else Answer(status, headers, body, False)

    def _body(self, status: int, method: str, headers: dict[str, str], start: int) -> bytes | None:
        """
        The body that begins at `start`, taken off with its head; None while it is not whole.
        """
        if method == "HEAD" or status in (204, 304):
            return self._take(start, start)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            if "content-length" in headers:
                raise WireError("both Content-Length and Transfer-Encoding")
            unchunked = _unchunked(bytes(self._unread[start:]))
            if unchunked is None:
                return None
            body, rest = unchunked
            self._unread[:] = rest
            return body
        if "content-length" in headers:
            length = headers["content-length"]
            if not re.fullmatch(r"[0-9]+", length):
                raise WireError(f"{length!r} is no Content-Length")
            self._wanted = start + int(length)
            return self._take(start, self._wanted) if len(self._unread) >= self._wanted else None
        return self._take(start, len(self._unread)) if self._ended else None

    def _take(self, start: int, end: int) -> bytes:
        body = bytes(memoryview(self._unread)[start:end])
        del self._unread[:end]
        self._wanted = 0
        return body


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise WireError(f"{line!r} is no header")
    return name.lower(), value.strip(" \t")


def _unchunked(rest: bytes) -> tuple[bytes, bytes] | None:
    body = []
    while True:
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            raise WireError(f"{size!r} is no chunk size")
        length = int(size, 16)
        if len(rest) < length + 2:
            return None
        if rest[length : length + 2] != b"\r\n":
            raise WireError("a chunk does not end where it says")
        if length == 0:
            return b"".join(body), rest[2:]
        body.append(rest[:length])
        rest = rest[length + 2 :]


def ask(address: tuple[str, int], method: str, target: str, timeout: float = TIMEOUT, **parts: object) -> Answer:
    """
    One request on a connection of its own.
    """
    connection = Connection(address, timeout)
    try:
        host = f"{address[0]}:{address[1]}"
        return connection.exchange(request_bytes(method, target, host, **parts), method)  # type: ignore[arg-type]
    finally:
        connection.close()
