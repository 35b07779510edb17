"""
Owns making a Twisted Failure of an exception, with the exception's own traceback.

Refuses: to be called without an exception at hand.
"""

from __future__ import annotations

from twisted.python.failure import Failure


def failure_of(exc: BaseException) -> Failure:
    """
    The exception as Twisted carries it.
    """
    return Failure(exc, type(exc), exc.__traceback__)


def exception_of(failure: Failure) -> BaseException:
    """
    The failure as asyncio carries it, with its frames even where Twisted has cleaned them
    off the exception.
    """
    exc = failure.value
    assert exc is not None
    return exc.with_traceback(failure.getTracebackObject())
