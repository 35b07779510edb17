"""
The clock: when timers that wait for nothing in particular go off.
"""

import pytest

from modern_fastapi.clock import until_beat


@pytest.mark.parametrize("every", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("now", [0.0, 0.3, 999.9999, 1000.0, 123456.789])
def test_a_beat_is_shared_and_comes_once(now: float, every: float) -> None:
    """
    Whenever it is asked, it is just after a multiple of the pause, which is never passed by more than a pause; asked
    again a millisecond early, it is the next one and not the same.
    """
    wait = until_beat(now, every)

    after = (now + wait) % every
    assert 0 < wait <= every + 0.0021
    assert after == pytest.approx(0.002, abs=1e-6)
    assert until_beat(now + wait - 0.001, every) > every / 2
