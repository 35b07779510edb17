"""
Owns four methods of C{twisted.web}'s Request that are written again here with fewer calls.
Every request calls them, some of them several times.

Each does what the method does whose place it takes, in the case that nearly every request is,
and has Twisted's own do the rest. What an application overrides, or puts in the place of what
they no longer call, is called as ever.

Refuses: to take the place of a text that it wasn't written after (L{TEXTS}).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from twisted.python.components import Componentized

# Names, not the module: looking something up in twisted.web.http takes a microsecond, since it is a proxy.
from twisted.web.http import NO_BODY_CODES, toChunk
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers, _nameEncoder
from twisted.web.server import Request

# Whose places are taken, and by what they are called no more.
READ: tuple[tuple[type, str], ...] = (
    (Request, "__init__"),
    (Request, "gotLength"),
    (Request, "write"),
    (HTTPRequest, "__init__"),
    (HTTPRequest, "setHeader"),
    (HTTPRequest, "write"),
    (Componentized, "__init__"),
    (Headers, "setRawHeaders"),
    (Headers, "getRawHeaders"),
    (type(_nameEncoder), "encode"),
)
# What L{text_of} says of them in the releases that were read.
TEXTS = frozenset(("689b52dcdb1c9852",))

_ABSENT: Any = object()


def text_of(methods: Iterable[tuple[type, str]] = READ) -> str:
    """
    A digest of the text of these methods as they are now; empty where one of them has none.
    """
    digest = hashlib.sha256()
    for owner, name in methods:
        method = vars(owner).get(name)
        if type(method) is not FunctionType:
            return ""
        try:
            # Not of the method: inspect would look through what wraps it.
            digest.update(inspect.getsource(method.__code__).encode())
        except OSError:
            return ""
    return digest.hexdigest()[:16]


def quick_methods() -> list[tuple[type, str, Callable[..., None]]]:
    """
    What may take whose place now: nothing, where the text isn't known.
    """
    if text_of() not in TEXTS:
        return []
    known = _nameEncoder._canonicalHeaderCache
    init_below: Any = HTTPRequest.__init__
    init_stock: Any = Request.__init__
    set_raw: Any = Headers.setRawHeaders
    get_raw: Any = Headers.getRawHeaders
    write_below: Any = HTTPRequest.write
    write_stock: Any = Request.write

    def init(self: Any, channel: Any, queued: object = _ABSENT, *args: Any, **options: Any) -> None:
        if queued is _ABSENT or args or options or HTTPRequest.__init__ is not init_below:
            args = args if queued is _ABSENT else (queued, *args)
            init_stock(self, channel, *args, **options)
            return
        self._parsePOSTFormSubmission = channel.site._parsePOSTFormSubmission
        self.notifications = []
        self.channel = channel
        self.client = channel.getPeer()
        self.host = channel.getHost()
        self.requestHeaders = Headers()
        self.received_cookies = {}
        self.responseHeaders = Headers()
        self.cookies = []
        self.transport = channel.transport
        self.queued = queued
        self._adapterCache = {}

    def set_header(self: Any, name: Any, value: Any) -> None:
        spelled = known.get(name)
        headers = self.responseHeaders
        if (
            spelled is None
            or type(value) is not bytes
            or 10 in value
            or 13 in value
            or type(headers) is not Headers
            or Headers.setRawHeaders is not set_raw
        ):
            headers.setRawHeaders(name, [value])
        else:
            headers._rawHeaders[spelled] = [value]

    def got_length(self: Any, length: int | None) -> None:
        # Stock learns it from an exception, which is most of what it costs.
        site = getattr(self.channel, "site", None)
        make = getattr(site, "getContentFile", _ABSENT)
        if make is _ABSENT:
            HTTPRequest.gotLength(self, length)
        else:
            self.content = make(length)

    def write(self: Any, data: Any) -> None:
        headers = self.responseHeaders
        code = self.code
        if (
            self.startedWriting
            or self.finished
            or self._disconnected
            or self._inFakeHead
            or self._encoder
            or self.lastModified is not None
            or self.etag is not None
            or self.method == b"HEAD"
            or code in NO_BODY_CODES
            or type(headers) is not Headers
            or Headers.setRawHeaders is not set_raw
            or Headers.getRawHeaders is not get_raw
            or HTTPRequest.write is not write_below
        ):
            write_stock(self, data)
            return
        raw = headers._rawHeaders
        length = raw.get(b"Content-Length")
        kind = self.defaultContentType
        if kind is not None and not raw.get(b"Content-Type") and not (length and length[0] == b"0"):
            headers.setRawHeaders(b"Content-Type", [kind])
        self.startedWriting = 1
        version = self.clientproto
        if version == b"HTTP/1.1" and not length:
            raw[b"Transfer-Encoding"] = [b"chunked"]
            self.chunked = 1
        if self.cookies:
            headers.setRawHeaders(b"Set-Cookie", self.cookies)
        channel = self.channel
        channel.writeHeaders(version, b"%d" % (code,), self.code_message, headers)
        self.sentLength += len(data)
        if data:
            if self.chunked:
                channel.writeSequence(toChunk(data))
            else:
                channel.write(data)

    return [
        (owner, name, functools.wraps(vars(owner)[name])(quick))
        for owner, name, quick in (
            (Request, "__init__", init),
            (HTTPRequest, "setHeader", set_header),
            (Request, "gotLength", got_length),
            (Request, "write", write),
        )
    ]
