"""
Owns the rules of who may run a background loop, and what to do next about it.

One process holds a loop's lease; the side that its stage names runs in that
process, under an epoch that no earlier owner ever had.  Everything here is a
function of what one process knows at one moment: L{next_step} is asked again
whenever something changed, and answers with one step.

Refuses: clocks, databases and tasks (L{bridge.background.supervisor} has them).
A lease that is judged wrongly costs lateness, never a doubled tick: the epoch is
compared inside each write of the loop, in the application's own database (the
fence), so that a former owner can't commit whatever it believes.

Source: the fencing tokens of Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from bridge.errors import RefusedChangeError
from bridge.routing.stage import Side


class LoopStage(enum.Enum):
    """
    Where one background loop stands.
    """

    LEGACY = "legacy"
    OBSERVE = "observe"
    HANDOFF = "handoff"
    LIVE = "live"
    MODERN = "modern"

    @property
    def owner(self) -> Side:
        """
        The side that is to run the loop.

        C{HANDOFF} is only ever shown, never stored: it has no owner of its own.

        @raise KeyError: For C{HANDOFF}.
        """
        return _OWNERS[self]


_OWNERS: Mapping[LoopStage, Side] = {
    LoopStage.LEGACY: Side.LEGACY,
    LoopStage.OBSERVE: Side.LEGACY,
    LoopStage.LIVE: Side.MODERN,
    LoopStage.MODERN: Side.MODERN,
}

MOVES: Mapping[LoopStage, frozenset[LoopStage]] = {
    LoopStage.LEGACY: frozenset({LoopStage.OBSERVE, LoopStage.LIVE}),
    LoopStage.OBSERVE: frozenset({LoopStage.LEGACY, LoopStage.LIVE}),
    LoopStage.LIVE: frozenset({LoopStage.LEGACY, LoopStage.OBSERVE, LoopStage.MODERN}),
    # Legacy's loop is never started from here; a person who must have it back goes
    # through live, and so says it twice.
    LoopStage.MODERN: frozenset({LoopStage.LIVE}),
}
"""
What a person may ask for, from each stage.
"""


def check_move(loop: str, old: LoopStage, new: LoopStage) -> None:
    """
    Refuse a move that the table above doesn't have; staying is no move.

    @raise RefusedChangeError: With the moves that there are.
    """
    if new is old or new in MOVES[old]:
        return
    allowed = ", ".join(sorted(stage.value for stage in MOVES[old]))
    raise RefusedChangeError(
        loop,
        new.value,
        f"a loop doesn't go from {old.value} to {new.value}",
        f"From {old.value} it can go to: {allowed}.",
    )


class Step(enum.Enum):
    """
    What a process does next about one loop.
    """

    WAIT = "wait"
    ACQUIRE = "acquire"  # compare-and-swap the lease, which raises the epoch
    START = "start"
    RENEW = "renew"
    STOP = "stop"  # and drain: the running tick and its thread
    RELEASE = "release"
    ABANDON = "abandon"  # stop without a release: the lease is another's


@attrs.frozen
class View:
    """
    What one process knows of one loop.

    @ivar wanted: The side that the stage names.
    @ivar leased: The side that our lease was taken for; L{None} without a lease.
    @ivar running: The side that runs here.
    @ivar draining: Whether it has been told to stop and hasn't yet.
    @ivar vacant: Whether the lease has no holder, or one that stopped renewing.
    @ivar lost: Whether our lease turned out to be another's.
    @ivar spent: Whether the loop was started under our lease's epoch before.
    @ivar rested: Whether a loop that died may be started again (its backoff is over).
    @ivar closing: Whether this process is stopping.
    @ivar due: Whether the lease wants its next renewal.
    """

    wanted: Side
    leased: Side | None
    running: Side | None
    draining: bool
    vacant: bool
    lost: bool
    spent: bool
    rested: bool
    closing: bool
    due: bool


def next_step(view: View) -> Step:
    """
    The one thing to do now.

    Stopping comes before releasing, releasing before anybody acquires, acquiring
    before starting: so two sides overlap only where a drain ran out of time, and
    then the fence holds.
    """
    if view.lost:
        return Step.WAIT if view.draining else Step.ABANDON
    if view.leased is None:
        if view.vacant and view.rested and not view.closing:
            return Step.ACQUIRE
        return Step.WAIT
    if view.running is not None:
        leaving = view.closing or view.running is not view.wanted
        if leaving and not view.draining:
            return Step.STOP
        return Step.RENEW if view.due else Step.WAIT
    if view.closing or view.leased is not view.wanted:
        return Step.RELEASE
    if view.rested:
        # An epoch is for one start: a thread that outlived its drain still bears it, and
        # the fence couldn't tell the two apart.
        return Step.ACQUIRE if view.spent else Step.START
    # A loop that died keeps the lease while it rests, or it would hop between
    # processes and die in each of them.
    return Step.RENEW if view.due else Step.WAIT


def shown(wanted: LoopStage, holder: Side | None) -> LoopStage:
    """
    The stage as an operator should read it: C{handoff} until the owner is right.

    @param holder: The side that the lease is held for.
    """
    if holder is None or holder is wanted.owner:
        return wanted
    return LoopStage.HANDOFF
