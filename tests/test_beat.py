"""
The moments that an idle server's timers share.
"""

from __future__ import annotations

import pytest

from bridge.beat import next_beat, until_beat


@pytest.mark.parametrize(
    ("now", "every", "then"), [(0.0, 2.0, 2.0), (1.999, 2.0, 2.0), (2.0, 2.0, 4.0), (5.0, 4.0, 8.0)]
)
def test_the_next_moment_is_a_multiple_and_later_than_now(now: float, every: float, then: float) -> None:
    """
    Whenever somebody begins to wait, the end is the same for all.
    """
    assert then == next_beat(now, every)


@pytest.mark.parametrize(("now", "every", "left"), [(0.0, 2.0, 2.0), (1.75, 2.0, 0.25), (2.001, 2.0, 1.999)])
def test_who_waits_for_a_beat_wakes_just_after_it(now: float, every: float, left: float) -> None:
    """
    A timer that came a little before the beat would find the same one again, and go off twice.
    """
    waits = until_beat(now, every)

    assert left < waits < left + 0.01
    assert now + every < next_beat(now + waits, every)
