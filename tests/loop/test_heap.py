"""
The heap: what is alive at the start is collected no more, and what comes later is.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from bridge.loop.heap import Heap


class Ring:
    """
    Garbage that only the collector finds.
    """

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    gc.disable()
    frozen = gc.get_freeze_count()
    yield
    gc.enable()
    assert frozen == gc.get_freeze_count()


def test_collects_once_and_puts_the_rest_aside() -> None:
    """
    Garbage of the start goes; what is alive is in no generation; garbage of later goes as ever.
    """
    gc.enable()
    early, alive, heap = weakref.ref(Ring()), Ring(), Heap()
    aside = weakref.ref(alive)

    asyncio.run(heap.put_aside())
    assert early() is None
    assert not any(each is alive for each in gc.get_objects())
    del alive
    late = weakref.ref(Ring())
    gc.collect()
    assert aside() is not None and late() is None

    asyncio.run(heap.take_back())
    gc.collect()
    assert aside() is None


def test_leaves_a_collector_that_is_off() -> None:
    """
    Who switched it off has a plan.
    """
    heap, before = Heap(), gc.get_freeze_count()

    asyncio.run(heap.put_aside())
    assert before == gc.get_freeze_count()
    asyncio.run(heap.take_back())
