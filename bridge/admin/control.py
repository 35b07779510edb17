"""
Owns what the admin API asks of the process that it runs in.

Refuses: to know who answers; C{compose} gives somebody who does.
"""

from __future__ import annotations

from typing import Any, Protocol

from bridge.routing import Stage


class Control(Protocol):
    """
    The hand on the stages of one process.  Answers are dicts, ready for JSON; each
    call may raise a L{bridge.errors.BridgeError}, which the API words as it is.
    """

    async def status(self) -> dict[str, Any]:
        """
        Every route and loop, and what the gate says.
        """

    async def route(self, name: str) -> dict[str, Any]:
        """
        All about one route.
        """

    async def loop(self, name: str, limit: int = 5) -> dict[str, Any]:
        """
        All about one background loop.
        """

    async def audit(self, name: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """
        The latest changes, newest first.
        """

    async def evidence(self, name: str) -> dict[str, Any]:
        """
        What the gate rules on, for one route.
        """

    async def differences(self, name: str, limit: int = 10) -> dict[str, Any]:
        """
        How a route's sides differ.
        """

    async def report(self, limit: int = 20) -> dict[str, Any]:
        """
        The whole migration.
        """

    async def move(
        self, name: str, stage: Stage, *, who: str, why: str, weight: float | None = None, force: bool = False
    ) -> dict[str, Any]:
        """
        Move a route; what it came to counts in this process when this returns.
        """

    async def rollback(self, name: str | None, *, who: str, why: str) -> dict[str, Any]:
        """
        Send one route, or with None all, back to legacy: what moved, and what is left
        where it was.
        """

    async def answer(self, name: str, rule: str, status: str, *, who: str) -> dict[str, Any]:
        """
        Accept or refuse a rule that was proposed for a route.
        """

    async def hand_off(self, loop: str, stage: str, *, who: str, why: str) -> dict[str, Any]:
        """
        Have a background loop run on another side.
        """
