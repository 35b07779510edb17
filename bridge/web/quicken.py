"""
Owns what of C{twisted.web} is replaced by something faster while a front runs: the C{Date}
of this second and the parsing of a form's C{Content-Type}, which are the same each time, the
decoding of path segments that have nothing to decode, and the methods of L{quick_request} and
L{quick_file}.

Refuses: to change an answer, to replace what an application replaced already, and to take
back what it replaced since.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web import http, server

from bridge.web.quick_file import quick_producers
from bridge.web.quick_request import quick_methods

# Multipart types carry a boundary each, so there are many of them.
_TYPES = 256


class _DateOfNow:
    """
    C{twisted.web.http.datetimeToString}, which remembers this second's answer.
    """

    def __init__(self, inner: Callable[..., bytes]) -> None:
        self._inner = inner
        self._second = -1
        self._text = b""

    def __call__(self, when: float | None = None) -> bytes:
        if when is not None:
            return self._inner(when)
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._text = second, self._inner(now)
        return self._text


def _unquote(segment: Any) -> Any:
    """
    C{twisted.web.server.unquote}; most segments have no escapes.
    """
    return segment if type(segment) is bytes and 37 not in segment else unquote_to_bytes(segment)


class Quickened:
    """
    All replacements, from L{begin} to L{end}. Nested ones are counted by what they find.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Any, str, Any, Any]] = []

    def begin(self) -> None:
        """
        Put the faster functions in, unless they are there already.
        """
        if self._kept or isinstance(vars(server)["datetimeToString"], _DateOfNow):
            return
        if vars(server)["datetimeToString"] is http.datetimeToString:
            self._put(server, "datetimeToString", _DateOfNow(http.datetimeToString))
        parse = vars(http).get("_parseContentType")
        if isinstance(parse, FunctionType) and parse.__globals__["__name__"] == "twisted.web.http":
            self._put(http, "_parseContentType", functools.lru_cache(_TYPES)(parse))
        if vars(server).get("unquote") is unquote_to_bytes:
            self._put(server, "unquote", _unquote)
        methods = quick_methods()
        for owner, name, quick in methods:
            self._put(owner, name, quick)
        if methods:
            # They go past Request.write, which is known now.
            for owner, name, quick in quick_producers():
                self._put(owner, name, quick)

    def end(self) -> None:
        """
        Put the stock functions back.
        """
        while self._kept:
            owner, name, stock, fast = self._kept.pop()
            if vars(owner)[name] is fast:
                setattr(owner, name, stock)

    def _put(self, owner: Any, name: str, fast: Any) -> None:
        self._kept.append((owner, name, vars(owner)[name], fast))
        setattr(owner, name, fast)
