"""
Owns the border between an C{async def} render method and twisted.web, so that a legacy
page may be written as a coroutine before its route moves.

Refuses: to write an answer itself; C{Request.render} does, with what the coroutine gave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from bridge.loop.awaiting import as_deferred

_Resource = TypeVar("_Resource")
_Request = TypeVar("_Request")


@attrs.frozen
class _Rendered:
    """
    What a coroutine gave, as a resource: Twisted's own code then knows what to do about
    HEAD, lengths, methods that aren't supported, and what isn't bytes.
    """

    outcome: Callable[[], Any]

    def render(self, request: Any) -> Any:
        return self.outcome()


def async_render(
    method: Callable[[_Resource, _Request], Coroutine[Any, Any, bytes | int]],
) -> Callable[[_Resource, _Request], int]:
    """
    Decorator: C{async def render_GET(self, request)} of a Resource, as twisted.web calls it.

    The coroutine returns what a render method returns: the body, or C{NOT_DONE_YET} if it
    sees to the answer itself. What it raises is answered as under Twisted. When the client
    goes away it is cancelled. It runs on the reactor's loop, in the request's context.
    """

    @functools.wraps(method)
    def render(resource: _Resource, request: _Request) -> int:
        asked: Any = request
        running = as_deferred(method(resource, request))
        gone = asked.notifyFinish()
        gone.addErrback(lambda reason: running.cancel())

        def returned(body: Any) -> None:
            # A HEAD that was faked from a GET is answered before the coroutine is.
            if body is not NOT_DONE_YET and not asked.finished:
                asked.render(_Rendered(lambda: body))

        def raised(reason: Failure) -> None:
            if asked._disconnected:
                # Nobody is there to be told; what isn't the cancellation is still an error.
                reason.trap(CancelledError)
            elif not asked.finished:
                asked.render(_Rendered(reason.raiseException))

        running.addCallbacks(returned, raised)
        running.addErrback(_failed, asked)
        return NOT_DONE_YET

    return render


def _failed(reason: Failure, request: Any) -> Failure | None:
    if request._disconnected or request.finished:
        return reason
    request.processingFailed(reason)
    return None
