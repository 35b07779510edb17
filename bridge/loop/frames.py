"""
Owns telling for whom code works from its frames alone: a context can't be read from another thread, nor from 3.11's
tasks, but the frames that entered it can. An ASGI application's frames have its scope; C{scope["bgserver.about"]} is
taken where somebody put it there.

Refuses: to change what it looks at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import Context
from types import FrameType, TracebackType
from typing import Any

from bridge.loop.context import About, facts_of, run_as
from bridge.loop.timers import TimedCall


def facts_in_traceback(traceback: TracebackType | None) -> About | None:
    """
    For whom a traceback's frames worked; the outermost that can tell decides.
    """
    while traceback is not None:
        found = facts_in(traceback.tb_frame)
        if found is not None:
            return found
        traceback = traceback.tb_next
    return None


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """
    The frame, its caller, and so on.
    """
    while frame is not None:
        yield frame
        frame = frame.f_back


def facts_in(frame: FrameType) -> About | None:
    """
    For whom a frame works, if it is one that can tell.
    """
    values: dict[str, Any] = frame.f_locals
    if frame.f_code is run_as.__code__:
        facts = values.get("facts")
        return facts if isinstance(facts, About) else None
    if isinstance(values.get("self"), asyncio.Handle):
        return _unless_nobody(getattr(values["self"], "_context", None))
    if frame.f_code is TimedCall.fire.__code__:
        return _unless_nobody(values.get("context"))
    scope = values.get("scope")
    if isinstance(scope, dict) and scope.get("type") in ("http", "websocket"):
        known = scope.get("bgserver.about")
        if isinstance(known, About):
            return known
        return About(route=f"{scope.get('method', 'WEBSOCKET')} {scope.get('path', '?')}", side="modern")
    return None


def _unless_nobody(context: Any) -> About | None:
    facts = facts_of(context) if isinstance(context, Context) else About()
    return facts if facts != About() else None
