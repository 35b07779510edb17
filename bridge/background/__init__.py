"""
Background loops: one owner at any moment, and moved between the stacks like routes.

- L{ownership}: the rules, pure: stages, moves, the next step.
- L{runners}: how a loop is started and stopped on each side.
- L{supervisor}: one loop in one process: its lease, its runner, its restarts.
"""

from bridge.background.ownership import LoopStage, Step, View, check_move, next_step, shown
from bridge.background.runners import LegacyRunner, ModernRunner, Runner
from bridge.background.supervisor import LoopStatus, LoopSupervisor

__all__ = [
    "LegacyRunner",
    "LoopStage",
    "LoopStatus",
    "LoopSupervisor",
    "ModernRunner",
    "Runner",
    "Step",
    "View",
    "check_move",
    "next_step",
    "shown",
]
