"""
Owns making the bridged reactor the process's one reactor.

Refuses: to replace a reactor that somebody imported. It says who it was.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop
from typing import Any

from bridge.errors import WrongLoopError, WrongReactorError
from bridge.loop.loops import is_uvloop, make_loop
from bridge.loop.reactor import BridgeReactor

_REACTOR = "twisted.internet.reactor"


def install(loop: str = "auto") -> BridgeReactor:
    """
    Install the reactor on a loop: C{"asyncio"}, C{"uvloop"}, or C{"auto"}, which is the running
    loop where there is one, else uvloop where it is installed, else asyncio.

    Called a second time, it returns the reactor that is there.

    @raise WrongReactorError: Another reactor is installed.
    @raise WrongLoopError: There is no such loop, or another one is running already.
    """
    there = sys.modules.get(_REACTOR)
    if there is not None:
        if not isinstance(there, BridgeReactor):
            raise WrongReactorError(_class_name(there), first_importer(there))
        _check(there.loop, loop)
        return there
    try:
        running: AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None:
        _check(running, loop)
    reactor = BridgeReactor(running, new_loop=None if running is not None else lambda: make_loop(loop))
    from twisted.internet.main import installReactor

    installReactor(reactor)
    return reactor


def _check(present: AbstractEventLoop, wanted: str) -> None:
    kind = "uvloop" if is_uvloop(present) else "asyncio"
    if wanted not in ("auto", "asyncio", "uvloop"):
        raise WrongLoopError(f"There is no loop {wanted!r}. Take auto, asyncio or uvloop.")
    if wanted not in ("auto", kind):
        raise WrongLoopError(
            f"The loop {wanted} was asked for, and {kind} is there already. "
            f"Start whatever owns the loop with {wanted}, or take --loop auto."
        )


def first_importer(reactor: object) -> str:
    """
    The module that imported the reactor first, as far as the order of imports tells.

    Modules stand in C{sys.modules} in the order in which their import ended. Of those that were being imported when the
    reactor was, the innermost ended first: it is the first after the reactor that holds it. One whose import
    hasn't ended stands where it began.
    """
    unfinished: str | None = None
    after = False
    for name, module in list(sys.modules.items()):
        if name == _REACTOR:
            after = True
        elif not name.startswith("twisted.internet") and _holds(module, reactor):
            if after:
                return name
            unfinished = name
    return unfinished or "A module that keeps no reference to it (find it with `python -X importtime`)"


def _holds(module: object, reactor: object) -> bool:
    namespace: dict[str, Any] = getattr(module, "__dict__", {})
    return any(value is reactor for value in list(namespace.values()))


def _class_name(reactor: object) -> str:
    kind = type(reactor)
    return f"{kind.__module__}.{kind.__qualname__}"
