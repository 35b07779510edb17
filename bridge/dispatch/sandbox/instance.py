"""
Owns what a sandbox is: a second instance, its copies, and the pace at which it is fed.

Refuses: to start anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from bridge.dispatch.asgi import App
from bridge.dispatch.sandbox.copies import Copy
from bridge.dispatch.sandbox.traces import Habits


class Instance(Protocol):
    """
    The second instance of one side, made by the same factory with the sandbox's
    settings.
    """

    async def start(self) -> App:
        """
        Start it on its copies.
        """

    async def stop(self) -> None:
        """
        Stop it, so that its copies can be made anew.
        """


@attrs.define(eq=False)
class Sandbox:
    """
    One side's second instance, and its copies.

    @ivar ids: The real ids, and what this instance calls the same.
    @ivar habits: What it does by itself.
    """

    instance: Instance
    copies: Sequence[Copy]
    app: App | None = None
    ids: dict[str, str] = attrs.field(factory=dict)
    habits: Habits = attrs.field(factory=Habits)

    def names(self) -> dict[str, str]:
        """
        This instance's ids, and the real ones for the same.  From any thread.
        """
        return {own: real for real, own in dict(self.ids).items()}


@attrs.frozen
class Pace:
    """
    How often, how long and how many.

    @ivar waiting: Writes that wait at most.
    @ivar open: Writes whose background work may still go on, at most; the next waits.
    @ivar quiet: Seconds without a change after which a write's work has ended, if both
        sides did the same by then; else it has until C{settle}.
    @ivar even: Seconds that the next write waits until both sides have done the same:
        most work ends at once, and what ends before the next write begins is surely its own.
    @ivar look: Seconds between two looks at the copies.
    @ivar drift: How many writes in a row a side's own sandbox must answer otherwise
        than the side itself, until the copies are made anew.
    @ivar again: Seconds between two seedings, doubled each time, up to C{longest}.
    @ivar tries: Seedings in a row that a write may spoil by running across them.
    """

    waiting: int = 256
    open: int = 256
    quiet: float = 2.0
    settle: float = 10.0
    even: float = 0.25
    look: float = 0.05
    drift: int = 3
    again: float = 5.0
    longest: float = 300.0
    tries: int = 5
