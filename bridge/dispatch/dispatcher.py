"""
Owns one request's way: ask the table once, let the side that it names answer, and
offer what was seen to the shadows.

Refuses: to touch a request that nothing shadows; to let anything that is observed
change, delay or break an answer; and lifespan, which belongs to whoever owns the
applications.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import attrs

from bridge.dispatch.asgi import DECISION, EFFECTS, App, Message, Receive, Scope, Send
from bridge.dispatch.asks import ScopeAsks
from bridge.dispatch.shadows import ShadowQueue
from bridge.dispatch.tape import Received, Tape
from bridge.dispatch.tee import Tee
from bridge.dispatch.trial import Dropped
from bridge.dispatch.watch import Counted, Observed, offer_taped
from bridge.errors import BridgeError
from bridge.parity.observe import Ending, Watch
from bridge.routing import Cell, Decision, RouteTable, Side


class LifespanRefused(BridgeError):
    """
    Somebody drove the dispatcher through an ASGI lifespan.
    """

    def __init__(self) -> None:
        super().__init__(
            "the dispatcher has no lifespan: the two applications are started and stopped "
            "by what put the server together. Serve it with lifespan off."
        )


# Encoding a method takes longer than finding it.
_METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


@attrs.define(eq=False)
class Dispatcher:
    """
    An ASGI application (http and websocket) over two sides.

    Runs on the loop's thread.
    """

    table: Cell[RouteTable]
    sides: Mapping[Side, App]
    shadows: ShadowQueue
    clock: Callable[[], float] = time.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Carry out what the table decides.
        """
        await self.carry(scope, receive, send)

    def carry(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """
        The same for an application that awaits it. Written out, and no coroutine of its
        own, since every request that FastAPI answers pays for each call here.
        """
        extensions = scope.get("extensions")
        decision = extensions.get(DECISION) if extensions else None
        if decision is None:
            decision = self._decide(scope)
        if not decision.watched or scope["type"] == "websocket":
            return self.sides[decision.answers](scope, receive, send)
        if decision.shadows is None:
            return self._count(decision, scope, receive, send)
        return self._observe(decision, scope, receive, send)

    def watch(self, decision: Decision, scope: Scope | None) -> Watch | None:
        """
        Who sees a request that is answered without ASGI, by the same rules.

        @param scope: The request, as a shadow would get it; None if ASGI has no words
            for it.
        @return: None if there is nothing to see.
        """
        if decision.shadows is None:
            return Counted(decision, self.shadows, self.clock)
        if scope is None:
            self.shadows.drop(decision, Dropped.FOREIGN)
            return None
        return Observed(decision, scope, self.shadows, self.clock)

    def _decide(self, scope: Scope) -> Decision:
        kind = scope["type"]
        if kind == "http":
            name = scope["method"]
            method = _METHODS.get(name) or name.encode("latin-1")
        elif kind == "websocket":
            method = b"GET"
        else:
            raise LifespanRefused()
        raw = scope.get("raw_path")
        if raw is None or b"?" in raw:
            raw = raw_path(scope)
        return self.table.value.decide(method, raw, ScopeAsks(scope))

    async def _observe(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        shadows, clock = self.shadows, self.clock
        received = Received(receive, Tape(shadows.limits.body))
        seen = shadows.recording(decision, scope, clock())
        # Applications write into their scope: the shadow gets it as it came.
        pristine = copy_of(scope)
        offered = False

        def offer() -> None:
            nonlocal offered
            if not offered:
                offered = True
                offer_taped(shadows, decision, pristine, received.tape, seen)

        def after_part(last: bool) -> None:
            if last:
                offer()
            elif seen.enough:
                seen.closed(Ending.ENOUGH, clock())
                offer()

        watching = Tee(send, seen, clock, after_part)
        try:
            await self.sides[decision.answers](
                with_extension(scope, EFFECTS, seen.effect), received.receive, watching.send
            )
        except asyncio.CancelledError:
            seen.closed(Ending.LEFT, clock())
            raise
        except BaseException as e:
            seen.closed(Ending.LEFT if received.left else Ending.RAISED, clock(), type(e).__name__)
            raise
        else:
            if watching.over:
                seen.closed(Ending.COMPLETE, clock())
            else:
                seen.closed(Ending.LEFT if received.left else Ending.SHORT, clock())
        finally:
            offer()

    async def _count(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        counted = Counted(decision, self.shadows, self.clock)
        received = Received(receive, Tape(0))

        async def watching(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                counted.started(message["status"], (), self.clock())

        try:
            await self.sides[decision.answers](scope, received.receive, watching)
        except asyncio.CancelledError:
            raise
        except BaseException:
            counted.closed(Ending.RAISED, self.clock())
            raise
        else:
            counted.closed(Ending.LEFT if received.left else Ending.COMPLETE, self.clock())


def raw_path(scope: Scope) -> bytes:
    """
    The path as it came: some servers and test clients leave C{raw_path} out, and
    some leave the query string in.
    """
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        raw = quote(scope["path"]).encode("ascii")
    elif b"?" in raw:
        raw = raw.partition(b"?")[0]
    return raw


def copy_of(scope: Scope) -> Scope:
    """
    A scope that shares nothing which an application writes to.
    """
    made = dict(scope)
    made["headers"] = list(scope.get("headers", ()))
    if "state" in scope:
        made["state"] = dict(scope["state"])
    made["extensions"] = dict(scope.get("extensions") or {})
    return made


def with_extension(scope: Scope, name: str, value: Any) -> Scope:
    """
    The same scope with one more extension; the given one stays as it is.
    """
    made = dict(scope)
    made["extensions"] = {**(scope.get("extensions") or {}), name: value}
    return made
