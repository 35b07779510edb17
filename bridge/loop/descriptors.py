"""
Owns watching descriptors: in nobody's context, and to their end on both loops.

uvloop tells of an error on a descriptor once, and then watches it no more. A connection that was reset with more unread
than one read takes would never be lost; it is read on until it is.

Refuses: nothing that Twisted takes.
"""

from __future__ import annotations

import select
from contextvars import Context
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor

from bridge.loop.loops import is_uvloop


class DescriptorReactor(AsyncioSelectorReactor):
    """
    The part of the reactor that watches descriptors.
    """

    _told_once = False

    def __init__(self, eventloop: Any = None) -> None:
        self._told_once = is_uvloop(eventloop)
        super().__init__(eventloop)

    def addReader(self, reader: Any) -> None:
        # A loop's handle keeps the context it is made in for as long as the descriptor is
        # watched, and a connection outlives the request that opened it.
        Context().run(super().addReader, reader)

    def addWriter(self, writer: Any) -> None:
        Context().run(super().addWriter, writer)

    def _readOrWrite(self, selectable: Any, read: bool) -> None:
        # And each event in a fresh one: what one event's callbacks set is not the next one's.
        Context().run(super()._readOrWrite, selectable, read)
        if self._told_once and read and selectable in self._readers and _has_error(selectable):
            Context().run(self._asyncioEventloop.call_soon, self._read_on, selectable)

    def _read_on(self, selectable: Any) -> None:
        if selectable in self._readers:
            self._readOrWrite(selectable, True)

    def removeReader(self, reader: Any) -> None:
        if self._asyncioEventloop.is_closed():
            self._readers.pop(reader, None)
        else:
            super().removeReader(reader)  # type: ignore[no-untyped-call]

    def removeWriter(self, writer: Any) -> None:
        if self._asyncioEventloop.is_closed():
            self._writers.pop(writer, None)
        else:
            super().removeWriter(writer)  # type: ignore[no-untyped-call]


def _has_error(selectable: Any) -> bool:
    descriptor = selectable.fileno()
    if descriptor < 0:
        return False
    look = select.poll()
    look.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))
