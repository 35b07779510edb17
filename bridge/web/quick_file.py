"""
Owns two methods of C{twisted.web.static}'s producers that are written again here: what File answers
goes from the file to the socket inside the kernel, where it can.

Nobody but the system sees these bytes on their way, so they take it only where nobody else would have:
between a regular file as C{open} gives it and a plain TCP or UNIX socket of our own
(L{bridge.web.channel.Channel.send_file}), past a Request that writes as Twisted's does, with neither an
encoder nor chunks. The head and the first piece, each piece for which the socket has no room, the end,
and everything that fails are Twisted's own method's: it writes, so it waits for slow peers and hears of
their leaving as ever.

Refuses: to take the place of a text that it wasn't written after (L{TEXTS}).
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from io import BufferedReader, FileIO
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.web.http import Request as HTTPRequest
from twisted.web.server import Request

from bridge.web.channel import Channel
from bridge.web.quick_request import text_of

# What L{text_of} says of L{read} in the releases that were read.
TEXTS = frozenset(("db6a15096e55310e",))

# Who sets another size of pieces has a reason.
_STOCK_SIZE = FileDescriptor.bufferSize
# How many bytes one turn sends at most, so that other clients get theirs.
PIECE = 0x40000


def read() -> tuple[tuple[type, str], ...]:
    """
    Whose places are taken.
    """
    with warnings.catch_warnings():
        # The module uses what Twisted deprecated. Who imports it by itself heard of that.
        warnings.simplefilter("ignore", DeprecationWarning)
        from twisted.web.static import NoRangeStaticProducer, SingleRangeStaticProducer
    return (NoRangeStaticProducer, "resumeProducing"), (SingleRangeStaticProducer, "resumeProducing")


def quick_producers() -> list[tuple[type, str, Callable[..., None]]]:
    """
    What may take whose place now: nothing, where the text isn't known or the system can't do it.

    Call it when C{Request.write} is known to be Twisted's, or what L{quick_request} has put there.
    """
    places = read()
    if not hasattr(os, "sendfile") or text_of(places) not in TEXTS:
        return []
    whole, ranged = (owner for owner, _ in places)
    write: Any = vars(Request)["write"]
    write_below: Any = HTTPRequest.write
    whole_stock: Any = vars(whole)["resumeProducing"]
    ranged_stock: Any = vars(ranged)["resumeProducing"]

    def sent(producer: Any, most: int) -> int:
        """
        How many bytes went by themselves.
        """
        request, file = producer.request, producer.fileObject
        if (
            not request
            or getattr(type(request), "write", None) is not write
            or not request.startedWriting
            or HTTPRequest.write is not write_below
            or "write" in vars(request)
            or request.chunked
            or request._encoder
            or request.producer is not producer
            or producer.bufferSize != _STOCK_SIZE
            or type(file) is not BufferedReader
            or type(file.raw) is not FileIO
            or not isinstance(request.channel, Channel)
        ):
            return 0
        size = request.channel.send_file(file, most)
        request.sentLength += size
        return size

    def resume_whole(self: Any) -> None:
        if type(self) is not whole or not sent(self, PIECE):
            whole_stock(self)

    def resume_ranged(self: Any) -> None:
        kind: object = type(self)
        if kind is ranged:
            most = self.size - self.bytesWritten
            size = sent(self, min(PIECE, most)) if most > 0 else 0
            self.bytesWritten += size
            if size and size < most:
                return
        ranged_stock(self)

    return [
        (owner, name, functools.wraps(vars(owner)[name])(quick))
        for (owner, name), quick in zip(places, (resume_whole, resume_ranged), strict=True)
    ]
