"""
Owns where errors that nobody handled end up: Deferreds that failed unseen, tasks whose error nobody retrieved,
exceptions in the loop's callbacks.

Each becomes one record, with the request's id, in C{twisted.logger} and in C{logging}; where one of the two ends in the
other, it is written once. In C{twisted.logger} it has the fields C{request}, C{route} and C{side}; so has the record
in C{logging}, under the name C{bgserver}.

Refuses: to guess. What a garbage collection brings up is nobody's: the context it runs in is an accident.
"""

from __future__ import annotations

import gc
import logging
from asyncio import AbstractEventLoop
from contextvars import Context
from typing import Any

import attrs
from twisted.internet import defer
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LoggingFile,
    LogLevel,
    STDLibLogObserver,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from bridge.loop.context import About, about, facts_of
from bridge.loop.failures import exception_of, failure_of
from bridge.loop.frames import facts_in_traceback

_log = Logger(namespace="bgserver")
_logging = logging.getLogger("bgserver")


@implementer(ILogObserver)
@attrs.define(eq=False)
class Reports:
    """
    Takes the errors of one loop, and of all Deferreds, while it is installed.
    """

    _loop: AbstractEventLoop
    _before: Any = attrs.field(default=None, init=False)
    _installed: bool = attrs.field(default=False, init=False)
    _collecting: bool = attrs.field(default=False, init=False)

    def install(self) -> None:
        """
        Take over the loop's exception handler, and what L{twisted.internet.defer} logs.
        """
        if self._installed:
            return
        self._installed = True
        self._before = self._loop.get_exception_handler()
        self._loop.set_exception_handler(self._on_loop)
        # Its own logger only: two events for each error, which become one.
        defer.log.observer = self  # type: ignore[assignment]
        gc.callbacks.append(self._on_collection)

    def uninstall(self) -> None:
        """
        Put back what was there.
        """
        if not self._installed:
            return
        self._installed = False
        if not self._loop.is_closed():
            self._loop.set_exception_handler(self._before)
        defer.log.observer = globalLogPublisher  # type: ignore[assignment]
        gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        self._collecting = phase == "start"

    def _facts(self) -> About:
        return About() if self._collecting else about()

    # -- what comes in ---------------------------------------------------------------------

    def __call__(self, event: dict[str, Any]) -> None:
        """
        What L{twisted.internet.defer} logs.
        """
        failure = event.get("log_failure")
        if failure is not None:
            debug = event.get("debugInfo") or ""
            self._write("Unhandled error in Deferred" + (f"\n{debug}" if debug else ""), failure, self._facts())
        elif not event.get("isError"):
            globalLogPublisher(event)

    def _on_loop(self, loop: AbstractEventLoop, found: dict[str, Any]) -> None:
        exception = found.get("exception")
        message = str(found.get("message") or "Unhandled error in the event loop")
        get_name = getattr(found.get("task") or found.get("future"), "get_name", None)
        if get_name is not None:
            message = f"{message} ({get_name()})"
        failure = failure_of(exception) if isinstance(exception, BaseException) else None
        self._write(message, failure, self._facts_of(found))

    def _facts_of(self, found: dict[str, Any]) -> About:
        # A task knows its context from 3.12 on; a handle of asyncio's always does.
        get_context = getattr(found.get("task") or found.get("future"), "get_context", None)
        context = get_context() if get_context is not None else getattr(found.get("handle"), "_context", None)
        if isinstance(context, Context):
            return facts_of(context)
        exception = found.get("exception")
        traceback = exception.__traceback__ if isinstance(exception, BaseException) else None
        return facts_in_traceback(traceback) or self._facts()

    # -- what goes out ---------------------------------------------------------------------

    def _write(self, message: str, failure: Failure | None, facts: About) -> None:
        both = _logging_leads_somewhere()
        # Before twistd (or anybody) began logging, Twisted prints what is critical to stderr.
        level = LogLevel.error if both and _not_begun() else LogLevel.critical
        fields: dict[str, Any] = {"request": facts.request, "route": facts.route, "side": facts.side}
        if failure is not None:
            fields["log_failure"] = failure
        _log.emit(level, "{message} (request {request}, {route}, {side})", message=message, isError=True, **fields)
        if both:
            exc_info = exception_of(failure) if failure is not None else None
            extra = {"request": facts.request, "route": facts.route, "side": facts.side}
            _logging.error("%s (request %s)", message, facts.request, exc_info=exc_info, extra=extra)


def _not_begun() -> bool:
    return globalLogBeginner._temporaryObserver is not None


def _logging_leads_somewhere() -> bool:
    """
    Whether `logging` has a place of its own to write to: one that isn't Twisted's log, and that Twisted's log
    doesn't end in.
    """
    observers = [_inner(observer) for observer in globalLogPublisher._observers]
    if any(isinstance(observer, STDLibLogObserver) for observer in observers):
        return False
    logger: logging.Logger | None = _logging
    while logger is not None:
        for handler in logger.handlers:
            if not isinstance(getattr(handler, "stream", None), LoggingFile):
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _inner(observer: Any) -> Any:
    while isinstance(observer, FilteringLogObserver):
        observer = observer._observer
    return observer
