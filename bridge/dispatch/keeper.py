"""
Owns the turn in which evidence is stored and the gate is asked: about once a second,
in one task that outlives every error.

Refuses: to move a route unless this process holds the gate, and to stop because a
database did.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Protocol

import attrs

from bridge.beat import until_beat
from bridge.dispatch.books import Book
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.ledger import EvidenceSink, Key
from bridge.parity import TAKEN_BACK, Action, Ruling
from bridge.parity import tally as t
from bridge.routing import Cell, RouteTable, Stage

log = logging.getLogger(__name__)

_MOVING = (Stage.SHADOW, Stage.CANARY, Stage.LIVE)


class Seat(Protocol):
    """
    The gate's seat, of which there is one among all processes.
    """

    def held(self) -> bool:
        """
        Whether this process may move routes now.
        """

    def since(self, route: str) -> float:
        """
        Wall-clock seconds at which the route came to its stage.
        """

    def taken_back(self, route: str) -> bool:
        """
        Whether a person has sent the route to legacy, where it stays until a person moves it.
        """

    async def move(self, route: str, expect: Stage, to: Stage, why: str, evidence: str) -> bool:
        """
        Move a route one step, if it still stands where it is expected to; with the
        counts as they were, as JSON, for the audit log.
        """


@attrs.define(eq=False)
class Keeper:
    """
    Stores what was observed, and carries the gate's rulings out.

    @ivar pause: Seconds between two turns.
    @ivar problem: Why evidence waits to be stored; empty while it doesn't.
    """

    table: Cell[RouteTable]
    examiner: Examiner
    sink: EvidenceSink
    seat: Seat
    wall: Callable[[], float]
    pause: float = 1.0
    failures: int = 0
    problem: str = ""

    async def run(self) -> None:
        """
        Take turns until cancelled; then store what is left, once.
        """
        try:
            while True:
                await asyncio.sleep(until_beat(asyncio.get_running_loop().time(), self.pause))
                await self.turn()
        finally:
            await self.store()

    async def turn(self) -> None:
        """
        Store, and then ask the gate about every route; never raises.
        """
        if not await self.store():
            return
        for book in list(self.examiner.books.values()):
            try:
                await self._review(book)
            except Exception:
                log.exception("the gate failed at %s", book.route)

    async def store(self) -> bool:
        """
        Store what waits; whether that worked.
        """
        ledger = self.examiner.ledger
        batch = ledger.take(self._moving())
        try:
            # An idle server asks its state for nothing.
            totals = await self.sink.write(batch) if batch else {}
        except Exception as e:
            ledger.give_back(batch)
            self.failures += 1
            if str(e) != self.problem:
                self.problem = str(e)
                log.warning("evidence waits, since the state can't be written: %s", e)
            return False
        self.problem = ""
        ledger.stored(totals)
        return True

    def ruling(self, book: Book) -> tuple[Stage, Ruling]:
        """
        Where a route stands, and what the gate says of it now.
        """
        stage = self.table.value.route(book.route).stage
        if stage is Stage.LEGACY and book.auto and self.seat.taken_back(book.route):
            return stage, TAKEN_BACK
        seconds = max(0.0, self.wall() - self.seat.since(book.route))
        return stage, self.examiner.rule(stage, book, seconds)

    def _moving(self) -> list[Key]:
        """
        The keys whose totals the gate needs: other processes add to them too.
        """
        routes, books = self.table.value.routes, self.examiner.books
        moving = (books.get(route.name) for route in routes if route.stage in _MOVING)
        return [Key(book.route, book.identity) for book in moving if book is not None]

    async def _review(self, book: Book) -> None:
        stage, ruling = self.ruling(book)
        key = Key(book.route, book.identity)
        ledger = self.examiner.ledger
        if ruling.rejected and not ledger.totals(key).counts.get(t.REJECTED):
            ledger.add(key, {t.REJECTED: 1})
        if ruling.action is Action.HOLD or ruling.to is None or not self.seat.held():
            return
        if ruling.action is Action.DEMOTE:
            ledger.add(key, {t.REJECTED: 1})
        counts = {name: n for name, n in sorted(ledger.totals(key).counts.items()) if n}
        evidence = json.dumps({"identity": book.identity, "why": ruling.why, "counts": counts})
        await self.seat.move(book.route, stage, ruling.to, ruling.why, evidence)
