"""
Owns the lines of an ASGI answer's head: what may be sent, as it is written, and what each
line is to the framing. What is asked of a header is remembered, and what all answers of a
server begin with is made ready once.

Refuses: to frame; the cycle does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import attrs

# A module, and no names: see L{bridge.web.asgi_cycle}.
from uvicorn.protocols.http import httptools_impl

Headers = Iterable[tuple[bytes, bytes]]

# Field names that are remembered; applications use a few dozen. The same of whole lines.
_NAMES = 1024
_LINES = 1024

# The fields that say how their answer is framed.
LENGTH, CODING, CONNECTION = b"content-length", b"transfer-encoding", b"connection"


@functools.lru_cache(_NAMES)
def field(name: bytes) -> tuple[bytes, bytes | None]:
    """
    A field name as it is written, with its colon, and what it is to the framing.
    """
    if httptools_impl.HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    lower = name.lower()
    return lower + b": ", lower if lower in (LENGTH, CODING, CONNECTION) else None


@functools.lru_cache(_LINES)
def line(name: bytes, value: bytes) -> bytes:
    """
    A header as it is written, for those that nearly every answer has, with few values and none that is secret: to
    look at each of their bytes costs three times as much.
    """
    if httptools_impl.HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    return name + b": " + value + b"\r\n"


@attrs.frozen
class Preface:
    """
    What every answer of a server begins with, made ready once.

    @ivar names: The names, in lower case.
    @ivar lines: The headers that say nothing about the framing, as they are written.
    @ivar framing: The others.
    """

    names: frozenset[bytes]
    lines: bytes
    framing: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, headers: Headers) -> Preface:
        """
        @raise RuntimeError: If a header can't be sent.
        """
        names, lines, framing = set(), bytearray(), []
        for name, value in headers:
            written, kind = field(name)
            if httptools_impl.HEADER_VALUE_RE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            names.add(name.lower())
            if kind is None:
                lines += written + value + b"\r\n"
            else:
                framing.append((name, value))
        return cls(frozenset(names), bytes(lines), tuple(framing))
