"""
Owns the kinds of event loop that there are.

Refuses: every other name.
"""

from __future__ import annotations

import asyncio
import importlib.util
from asyncio import AbstractEventLoop

from bridge.errors import WrongLoopError


def is_uvloop(loop: AbstractEventLoop) -> bool:
    """
    Whether that is one of uvloop's.
    """
    return type(loop).__module__.partition(".")[0] == "uvloop"


def make_loop(kind: str) -> AbstractEventLoop:
    """
    A new event loop of that kind.
    """
    if kind == "auto":
        kind = "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    if kind == "uvloop":
        try:
            import uvloop
        except ImportError as exc:
            raise WrongLoopError(
                "The loop uvloop isn't installed here. `pip install uvloop`, or take --loop asyncio."
            ) from exc
        return uvloop.new_event_loop()
    raise WrongLoopError(f"There is no loop {kind!r}. Take auto, asyncio or uvloop.")
