"""
Owns two costs that Twisted pays again for each request, and that are the same each
time: the C{Date} of this second, and the parsing of a form's C{Content-Type}.

Refuses: to change an answer.  The replaced functions are put back when the front ends.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from twisted.web import http, server

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


class Quickened:
    """
    Both replacements, from L{begin} to L{end}. Nested ones are counted by what they find.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Any, str, Any]] = []

    def begin(self) -> None:
        """
        Put the faster functions in, unless they are there already.
        """
        if self._kept or isinstance(vars(server)["datetimeToString"], _DateOfNow):
            return
        self._put(server, "datetimeToString", _DateOfNow(http.datetimeToString))
        parse = getattr(http, "_parseContentType", None)
        if parse is not None:
            self._put(http, "_parseContentType", functools.lru_cache(_TYPES)(parse))

    def end(self) -> None:
        """
        Put the stock functions back.
        """
        while self._kept:
            module, name, stock = self._kept.pop()
            setattr(module, name, stock)

    def _put(self, module: Any, name: str, fast: Any) -> None:
        self._kept.append((module, name, getattr(module, name)))
        setattr(module, name, fast)
