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
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import attrs

from bridge.dispatch.asgi import DECISION, EFFECTS, App, Message, Receive, Scope, Send
from bridge.dispatch.asks import ScopeAsks
from bridge.dispatch.shadows import ShadowQueue
from bridge.dispatch.tape import Tape, tape_of
from bridge.dispatch.tee import Tee
from bridge.errors import BridgeError
from bridge.parity.observe import Ending, Recording
from bridge.routing import Cell, Decision, Effects, RouteTable, Side, Stage


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
        # Written out, since every request that FastAPI answers pays for each call here.
        extensions = scope.get("extensions")
        decision = extensions.get(DECISION) if extensions else None
        if decision is None:
            decision = self._decide(scope)
        if decision.shadows is None:
            if decision.route.effects is not Effects.EXTERNAL or not watched(decision, scope):
                return await self.sides[decision.answers](scope, receive, send)
            return await self._watch(decision, scope, receive, send)
        if scope["type"] == "websocket":
            return await self.sides[decision.answers](scope, receive, send)
        return await self._observe(decision, scope, receive, send)

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
        tape = tape_of(receive, shadows.limits.body)
        seen = shadows.recording(decision, clock())
        # Applications write into their scope: the shadow gets it as it came.
        pristine = copy_of(scope)
        offered = False

        def offer() -> None:
            nonlocal offered
            if not offered:
                offered = True
                self._offer(decision, pristine, tape, seen)

        def after_part(last: bool) -> None:
            if last:
                offer()
            elif seen.enough:
                seen.closed(Ending.ENOUGH, clock())
                offer()

        watching = Tee(send, seen, clock, after_part)
        try:
            await self.sides[decision.answers](with_extension(scope, EFFECTS, seen.effect), tape.receive, watching.send)
        except asyncio.CancelledError:
            seen.closed(Ending.LEFT, clock())
            raise
        except BaseException as e:
            seen.closed(Ending.LEFT if tape.left else Ending.RAISED, clock(), type(e).__name__)
            raise
        else:
            if watching.over:
                seen.closed(Ending.COMPLETE, clock())
            else:
                seen.closed(Ending.LEFT if tape.left else Ending.SHORT, clock())
        finally:
            offer()

    def _offer(self, decision: Decision, scope: Scope, tape: Tape, seen: Recording) -> None:
        missing = tape.missing(scope)
        if missing is not None:
            self.shadows.drop(decision, missing)
        else:
            self.shadows.offer(decision, scope, tape.chunks, seen)

    async def _watch(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing may shadow here, so that a canary is judged by its own errors.
        status = 0

        async def watching(message: Message) -> None:
            nonlocal status
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]

        began = self.clock()
        try:
            await self.sides[decision.answers](scope, receive, watching)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.shadows.answered(decision, 599, self.clock() - began)
            raise
        else:
            self.shadows.answered(decision, status, self.clock() - began)


def watched(decision: Decision, scope: Scope) -> bool:
    """
    Whether a request without a shadow is judged by its errors alone.
    """
    route = decision.route
    moving = route.stage in (Stage.CANARY, Stage.LIVE)
    return moving and route.effects is Effects.EXTERNAL and scope["type"] == "http"


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
