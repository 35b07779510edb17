"""
Owns what a callback knows about the request that it works for: the context it runs in.

A request has a context of its own. Timers, threads, coroutines and `inlineCallbacks` keep
the one they were started in; sockets and the reactor's own bookkeeping run in none. What
Twisted shares between requests by design (a plain callback behind a `DeferredLock`) runs in
whoever's context released it: L{in_context} is for those.

Refuses: to keep a request alive. A timer that is further away than L{FAR} seconds gets the
facts of its request (L{About}) and no more; a session's timer would otherwise hold the
request, its body and its connection for a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import ParamSpec, TypeVar

import attrs

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Seconds. A timer nearer than this keeps its whole context, and so at most that long.
FAR = 60.0


# Nobody changes one, but a frozen class takes three times as long to make, and there is one for each request.
@attrs.define(unsafe_hash=True)
class About:
    """
    What logs, reports and the stall watchdog say about the work in hand.

    Small and free of references, because far timers keep it.

    @ivar request: The request's id, as the log has it.
    @ivar route: The route's name, or what stands for it.
    @ivar side: C{"legacy"} or C{"modern"}.
    @ivar shadow: Whether this is a request that is only observed.
    """

    request: str = "-"
    route: str = "-"
    side: str = "-"
    shadow: bool = False


_NOBODY = About()

_about: ContextVar[About] = ContextVar("bridge.loop.about", default=_NOBODY)


def about() -> About:
    """
    Whose work this is; L{About}'s defaults where it is nobody's.
    """
    return _about.get()


def set_about(facts: About) -> None:
    """
    Say whose work the current context does. Costs one C{ContextVar.set}.
    """
    _about.set(facts)


def request_context(facts: About) -> Context:
    """
    A new, otherwise empty context for one request.
    """
    context = Context()
    context.run(_about.set, facts)
    return context


def run_as(facts: About, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """
    Call a function in a new context of its own, working for somebody.

    The stall watchdog finds this frame, and so knows whom a blocking callback worked for.
    """
    return request_context(facts).run(function, *args, **kwargs)


def timer_context(delay: float) -> Context:
    """
    The context for a timer that is C{delay} seconds away.
    """
    if delay <= FAR:
        return copy_context()
    return only_facts(_about.get())


def only_facts(facts: About) -> Context:
    """
    A context with nothing but the facts in it.
    """
    context = Context()
    if facts is not _NOBODY:
        context.run(_about.set, facts)
    return context


def facts_of(context: Context) -> About:
    """
    Whose work a context does, without entering it.
    """
    return context.get(_about, _NOBODY)


def in_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """
    Bind a plain callback to the context it is made in.

    Each call runs in a copy, so that calls may nest and leave nothing behind. For callbacks
    on what requests share: locks, pools, caches.
    """
    bound = copy_context()

    def run_bound(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return bound.copy().run(function, *args, **kwargs)

    return run_bound
