"""
The rules of ownership, alone and as a model of many processes.
"""

from __future__ import annotations

import itertools
import random

import attrs
import pytest

from bridge.background.ownership import (
    MOVES,
    LoopStage,
    Step,
    View,
    check_move,
    next_step,
    shown,
)
from bridge.errors import RefusedChangeError
from bridge.routing.stage import Side

_FLAGS = ("draining", "vacant", "lost", "spent", "rested", "closing", "due")
_SIDES = (None, Side.LEGACY, Side.MODERN)


def _views():
    for wanted, leased, running in itertools.product(Side, _SIDES, _SIDES):
        for flags in itertools.product((False, True), repeat=len(_FLAGS)):
            yield View(
                wanted=wanted,
                leased=leased,
                running=running,
                **dict(zip(_FLAGS, flags, strict=True)),
            )


def test_starts_only_what_it_holds_and_the_stage_names():
    """
    A loop starts only under a lease of this process, for the wanted side, once.
    """
    for view in _views():
        if next_step(view) is Step.START:
            assert (view.leased, view.running, view.lost) == (view.wanted, None, False)
            assert not view.spent
            assert not view.closing


def test_takes_only_what_is_vacant():
    """
    A lease is taken only where nobody holds it, or anew where its epoch is spent; and never on the way out.
    """
    for view in _views():
        if next_step(view) is Step.ACQUIRE:
            assert not view.closing
            assert view.vacant if view.leased is None else view.spent


def test_releases_only_when_nothing_runs():
    """
    The lease is given back after the drain, not before.
    """
    for view in _views():
        if next_step(view) is Step.RELEASE:
            assert view.running is None


def test_a_lost_lease_stops_the_loop_and_is_not_released():
    """
    Whoever lost the lease has nothing to give back.
    """
    for view in _views():
        if view.lost:
            assert next_step(view) in (Step.ABANDON, Step.WAIT)


@pytest.mark.parametrize("old", MOVES)
@pytest.mark.parametrize("new", MOVES)
def test_moves_are_the_table(old: LoopStage, new: LoopStage):
    """
    What the table of moves has is allowed, staying is no move, the rest is refused.
    """
    if new is old or new in MOVES[old]:
        check_move("consumer", old, new)
    else:
        with pytest.raises(RefusedChangeError, match=f"from {old.value} to {new.value}"):
            check_move("consumer", old, new)


def test_modern_never_goes_to_legacy_at_once():
    """
    From the last stage legacy's loop isn't one step away.
    """
    assert LoopStage.LEGACY not in MOVES[LoopStage.MODERN]


def test_handoff_is_shown_while_the_wrong_side_holds_the_lease():
    """
    An operator reads handoff until the owner is the side that the stage names.
    """
    assert LoopStage.HANDOFF is shown(LoopStage.LIVE, Side.LEGACY)
    assert LoopStage.LIVE is shown(LoopStage.LIVE, Side.MODERN)
    assert LoopStage.LEGACY is shown(LoopStage.LEGACY, None)


@attrs.define
class _Process:
    """
    A process in the model: it ticks while it runs, may pause, may believe in a lease
    that it lost, and never hears of time except through renewals.
    """

    name: str
    leased: tuple[Side, int] | None = None
    running: tuple[Side, int] | None = None
    draining: bool = False
    lost: bool = False
    spent: bool = False
    stragglers: list[int] = attrs.field(factory=list)


@attrs.define
class _World:
    """
    The lease row, the application's fence, and what was committed for each tick.
    """

    fenced: bool
    stage: LoopStage = LoopStage.LEGACY
    holder: str | None = None
    epoch: int = 0
    fence: int = 0
    tick: int = 0
    committed: dict[int, set[int]] = attrs.field(factory=dict)
    doubled: int = 0

    def commit(self, epoch: int, tick: int) -> None:
        if self.fenced and epoch != self.fence:
            return
        owners = self.committed.setdefault(tick, set())
        owners.add(epoch)
        if len(owners) > 1:
            self.doubled += 1


def _simulate(seed: int, fenced: bool, moves: int = 600) -> _World:
    dice = random.Random(seed)
    world = _World(fenced)
    processes = [_Process(name) for name in "abc"]
    for _ in range(moves):
        process = dice.choice(processes)
        kind = dice.random()
        if kind < 0.05:
            world.stage = dice.choice(sorted(MOVES[world.stage], key=lambda s: s.value))
        elif kind < 0.08:  # kill -9
            process.leased = process.running = None
            process.draining = process.lost = False
            process.stragglers.clear()
        elif kind < 0.30:
            # A tick is committed once by its key, unless two owners race for it; a
            # straggler is a thread that outlived its drain.
            world.tick += dice.random() < 0.3
            for epoch in (*([process.running[1]] if process.running else []), *process.stragglers):
                world.commit(epoch, world.tick)
        else:
            _step(world, process, dice)
    return world


def _step(world: _World, process: _Process, dice: random.Random) -> None:
    holds = process.leased is not None and world.holder == process.name
    vacant = world.holder is None or dice.random() < 0.1  # a paused holder looks gone
    view = View(
        wanted=world.stage.owner,
        leased=process.leased[0] if process.leased else None,
        running=process.running[0] if process.running else None,
        draining=process.draining,
        vacant=vacant,
        lost=process.lost,
        spent=process.spent,
        rested=True,
        closing=False,
        due=True,
    )
    match next_step(view):
        case Step.ACQUIRE:
            world.epoch += 1
            world.holder = process.name
            process.leased, process.spent = (world.stage.owner, world.epoch), False
        case Step.START:
            assert process.leased is not None
            process.spent = True
            if process.leased[1] >= world.fence:
                world.fence = process.leased[1]
                process.running = process.leased
            else:
                process.lost = True
        case Step.RENEW:
            process.lost = not holds
        case Step.STOP | Step.ABANDON:
            process.draining = process.running is not None
            if process.running is None:
                process.leased, process.lost = None, False
        case Step.RELEASE:
            if holds:
                world.holder = None
            process.leased = None
        case Step.WAIT:
            pass
    if process.draining and dice.random() < 0.5:
        assert process.running is not None
        if dice.random() < 0.3:
            process.stragglers.append(process.running[1])
        process.running, process.draining = None, False
        if process.lost:
            process.leased, process.lost = None, False


def _raced(fenced: bool) -> int:
    return sum(_simulate(seed, fenced).doubled for seed in range(200))


def test_no_tick_is_committed_under_two_epochs():
    """
    Whatever pauses, kills and overdue drains happen, one tick is one owner's.

    It could still be committed by an old owner before the fence rose and by the new
    one after; the key of the tick refuses that, and the applications' tests show it.
    Here the fence alone must keep every commit after its raise to the new epoch.
    """
    world_with = [_simulate(seed, fenced=True) for seed in range(200)]

    for world in world_with:
        for owners in world.committed.values():
            assert max(owners) <= world.fence

    assert any(world.committed for world in world_with)


def test_the_model_sees_doubled_ticks_without_the_fence():
    """
    The same runs without the fence do double ticks, so the model can fail.
    """
    assert _raced(fenced=False) > 2 * _raced(fenced=True)
