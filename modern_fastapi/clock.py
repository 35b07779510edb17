"""
What time it is, as the database and the answers write it: UTC with microseconds, ``2026-11-21T20:00:00.000000Z``.

Tests hand in a clock of their own; nothing else in the application reads the wall clock.
"""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """
    The two readings that the application needs.
    """

    def now(self) -> datetime:
        """
        The wall clock, aware, in UTC.
        """

    def monotonic(self) -> float:
        """
        Seconds that never step back.
        """


class SystemClock:
    """
    The machine's own clocks.
    """

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def until_beat(now: float, every: float) -> float:
    """
    Seconds from ``now`` to just after the next multiple of ``every``: timers that wait for nothing in particular go off
    together. Waking an idle process costs more than what most of them do then.
    """
    # A timer may come a millisecond early, and would go off twice.
    return (math.floor(now / every) + 1) * every - now + 0.002


def as_text(moment: datetime) -> str:
    """
    A moment as the contract writes it. Text sorts as time does.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """
    The moment that ``as_text`` wrote.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def later(moment: datetime, seconds: float) -> str:
    """
    ``seconds`` after ``moment``, as text.
    """
    return as_text(moment + timedelta(seconds=seconds))
