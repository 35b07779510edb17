"""
Owns the beat: the moments that the timers of an idle server share, however different the times at which they began.

Refuses: to look at a clock.
"""

from __future__ import annotations

import math

_EARLY = 0.002
"""
Seconds by which a timer may come too early.
"""


def next_beat(now: float, every: float) -> float:
    """
    The first moment after C{now} that is a multiple of C{every}, all in seconds of one clock.

    Who waits for beats of 2 s wakes together with all others who do, and every second time with who waits for 4.
    """
    return (math.floor(now / every) + 1) * every


def until_beat(now: float, every: float) -> float:
    """
    Seconds from C{now} to just after the next beat: a timer that came before it would find the same beat again.
    """
    return next_beat(now, every) - now + _EARLY
