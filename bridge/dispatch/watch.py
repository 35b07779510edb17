"""
Owns what is seen of one request that is answered without ASGI, straight on its
connection: the recorder of its answer, the tape of its body, and what comes of them.

It is the dispatcher's rules for those who can't call it: what is offered to the shadows,
when an observation closes, and what a canary is judged by are the same on both roads.

Refuses: to change, delay or break an answer; an error of ours in here is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from bridge.dispatch.asgi import Scope
from bridge.dispatch.shadows import ShadowQueue
from bridge.dispatch.tape import Tape
from bridge.parity.observe import Ending, Headers, Recording
from bridge.routing import Decision

log = logging.getLogger(__name__)


class Observed:
    """
    A request that is shadowed after its answer.
    """

    def __init__(self, decision: Decision, scope: Scope, shadows: ShadowQueue, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._decision = decision
        self._scope = scope
        self._shadows = shadows
        self._tape = Tape(shadows.limits.body)
        self._seen = shadows.recording(decision, scope, clock())
        self.effect: Callable[..., None] | None = self._seen.effect
        self._holds: set[object] = set()
        self._answered = False
        self._offered = False

    def begins(self) -> None:
        self._seen.began = self.clock()

    def heard(self, body: bytes) -> None:
        self._tape.keep(body)

    def heard_all(self) -> None:
        self._tape.ended = True

    def hold(self) -> Callable[[], None]:
        hold = object()
        self._holds.add(hold)

        def release() -> None:
            self._holds.discard(hold)
            self._settle()

        return release

    def started(self, status: int, headers: Headers, at: float) -> None:
        self._seen.started(status, headers, at)

    def wrote(self, data: bytes) -> None:
        seen = self._seen
        seen.wrote(data)
        if seen.enough and not self._offered:
            seen.closed(Ending.ENOUGH, self.clock())
            self._offer()

    def closed(self, how: Ending, at: float, error: str = "") -> None:
        self._answered = True
        if how is not Ending.COMPLETE:
            self._seen.closed(how, at, error)
        self._offer()
        self._settle()

    def _settle(self) -> None:
        # Work that goes on behind the last byte belongs to the observation.
        if self._answered and not self._holds:
            self._seen.closed(Ending.COMPLETE, self.clock())

    def _offer(self) -> None:
        if self._offered:
            return
        self._offered = True
        try:
            offer_taped(self._shadows, self._decision, self._scope, self._tape, self._seen)
        except Exception:
            log.exception("a request of %s was answered, but not shadowed", self._decision.route.name)


class Counted:
    """
    A request of a canary that nothing may shadow: it is judged by its own errors.
    """

    effect: Callable[..., None] | None = None

    def __init__(self, decision: Decision, shadows: ShadowQueue, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._decision = decision
        self._shadows = shadows
        self._began = clock()
        self._status = 0

    def begins(self) -> None:
        self._began = self.clock()

    def heard(self, body: bytes) -> None: ...

    def heard_all(self) -> None: ...

    def hold(self) -> Callable[[], None]:
        return lambda: None

    def started(self, status: int, headers: Headers, at: float) -> None:
        self._status = status

    def wrote(self, data: bytes) -> None: ...

    def closed(self, how: Ending, at: float, error: str = "") -> None:
        if how is Ending.LEFT and not self._status:
            # Who didn't wait for an answer says nothing of it.
            return
        status = 599 if how is Ending.RAISED else self._status
        self._shadows.answered(self._decision, status, at - self._began)


def offer_taped(shadows: ShadowQueue, decision: Decision, scope: Any, tape: Tape, seen: Recording) -> None:
    """
    Have an answered request shadowed, or count why it can't be.
    """
    missing = tape.missing(scope)
    if missing is not None:
        shadows.drop(decision, missing)
    else:
        shadows.offer(decision, scope, tape.chunks, seen)
