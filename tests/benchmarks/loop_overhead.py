"""
What the loop room costs: awaiting a Deferred against awaiting a Future, `callLater` against the stock reactor's.

    python -m tests.benchmarks.loop_overhead [asyncio|uvloop]

CPU time, interleaved rounds, the best of each: noise only ever adds. The promises are 1.3× and 1.1×.

What is measured: a task that awaits something not yet there, which a callback of the loop then fires. Awaiting a
Deferred is the sum of two things, so four figures are given:

- over a Future alone, which is the promise;
- the floor: two empty turns of the loop, one to fire and one to go on, and a Deferred that nobody awaits, over a Future
  alone. No bridge can be below it;
- the crossing: what is left when a Deferred that is made, given one callback and fired, all without the loop, is taken
  off, over a Future. That much is Twisted's own Python code, and is paid by whoever uses a Deferred at all;
- over a Future and a Deferred that don't meet, both fired by the loop.

On uvloop, where awaiting a Future is C from end to end, a Deferred alone costs more than half of that.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, succeed

from bridge.loop import BridgeReactor, as_awaitable, as_deferred, make_loop

ROUNDS = 25
COUNT = 2_000


async def await_futures() -> float:
    """
    CPU seconds for each await of a Future that a callback of the loop resolves.
    """
    loop = asyncio.get_running_loop()
    began = time.thread_time()
    for _ in range(COUNT):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
    return (time.thread_time() - began) / COUNT


async def await_deferreds() -> float:
    """
    The same with a Deferred.
    """
    loop = asyncio.get_running_loop()
    began = time.thread_time()
    for _ in range(COUNT):
        deferred: Deferred[None] = Deferred()
        loop.call_soon(deferred.callback, None)
        await as_awaitable(deferred)
    return (time.thread_time() - began) / COUNT


async def await_as_future() -> float:
    """
    The same with Twisted's own conversion, for comparison.
    """
    loop = asyncio.get_running_loop()
    began = time.thread_time()
    for _ in range(COUNT):
        deferred: Deferred[None] = Deferred()
        loop.call_soon(deferred.callback, None)
        await deferred.asFuture(loop)
    return (time.thread_time() - began) / COUNT


async def await_created() -> float:
    """
    A Future and a Deferred nobody converts: what a Deferred costs before it crosses.
    """
    loop = asyncio.get_running_loop()
    began = time.thread_time()
    for _ in range(COUNT):
        deferred: Deferred[None] = Deferred()
        deferred.addCallbacks(_same, _same)
        future = loop.create_future()
        loop.call_soon(deferred.callback, None)
        loop.call_soon(future.set_result, None)
        await future
    return (time.thread_time() - began) / COUNT


def _same(result: object) -> object:
    return result


async def deferred_alone() -> float:
    """
    A Deferred that nobody awaits: made, given one callback, fired, without the loop.
    """
    began = time.thread_time()
    for _ in range(COUNT):
        deferred: Deferred[None] = Deferred()
        deferred.addBoth(_same)
        deferred.callback(None)
    return (time.thread_time() - began) / COUNT


async def two_turns() -> float:
    """
    A task that lets the loop turn twice, as each await here does, and awaits nothing.
    """
    began = time.thread_time()
    for _ in range(COUNT):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return (time.thread_time() - began) / COUNT


async def await_fired() -> float:
    """
    Deferreds that have fired already, each of which gives the loop a turn.
    """
    began = time.thread_time()
    for _ in range(COUNT):
        await as_awaitable(succeed(None))
    return (time.thread_time() - began) / COUNT


async def await_tasks_of_deferreds() -> float:
    """
    A coroutine as a Deferred, and back.
    """

    async def nothing() -> None:
        pass

    began = time.thread_time()
    for _ in range(COUNT):
        await as_awaitable(as_deferred(nothing()))
    return (time.thread_time() - began) / COUNT


def call_later(reactor: AsyncioSelectorReactor) -> float:
    """
    Seconds for each timer: made, fired; a thousand others pending.
    """
    pending = [reactor.callLater(1000 + index, _same, None) for index in range(1000)]
    left = COUNT
    took = [0.0]

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            reactor.callLater(0, again)
        else:
            took[0] = time.thread_time() - began
            reactor.crash()

    began = time.thread_time()
    reactor.callLater(0, again)
    reactor.run(installSignalHandlers=False)
    for call in pending:
        call.cancel()
    return took[0] / COUNT


def batch_later(reactor: AsyncioSelectorReactor) -> float:
    """
    Seconds for each timer, where many are made at once.
    """
    took = [0.0]

    def go() -> None:
        began = time.thread_time()
        for index in range(COUNT):
            reactor.callLater(1 + index / COUNT, _same, None).cancel()
        took[0] = (time.thread_time() - began) / COUNT
        reactor.crash()

    reactor.callWhenRunning(go)
    reactor.run(installSignalHandlers=False)
    return took[0]


def from_thread(reactor: AsyncioSelectorReactor) -> float:
    """
    CPU seconds for each call that another thread hands over, and the reactor runs.
    """
    took = [0.0]

    def go() -> None:
        began = time.process_time()

        def last() -> None:
            took[0] = (time.process_time() - began) / COUNT
            thread.join()
            reactor.crash()

        def work() -> None:
            for _ in range(COUNT - 1):
                reactor.callFromThread(_same, None)
            reactor.callFromThread(last)

        thread = threading.Thread(target=work)
        thread.start()

    reactor.callWhenRunning(go)
    reactor.run(installSignalHandlers=False)
    return took[0]


def _interleaved(measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in measures}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                taken[name].append(measure())
            gc.collect()
    finally:
        gc.enable()
    return {name: min(times) * 1e6 for name, times in taken.items()}


def main(kind: str) -> None:
    with asyncio.Runner(loop_factory=lambda: make_loop(kind)) as runner:
        awaits = _interleaved(
            {
                "Future": lambda: runner.run(await_futures()),
                "Deferred": lambda: runner.run(await_deferreds()),
                "asFuture": lambda: runner.run(await_as_future()),
                "both apart": lambda: runner.run(await_created()),
                "Deferred alone": lambda: runner.run(deferred_alone()),
                "two turns": lambda: runner.run(two_turns()),
                "fired before": lambda: runner.run(await_fired()),
                "there and back": lambda: runner.run(await_tasks_of_deferreds()),
            }
        )
    ours, theirs = BridgeReactor(new_loop=lambda: make_loop(kind)), AsyncioSelectorReactor(make_loop(kind))
    timers = _interleaved(
        {
            "stock callLater, fired": lambda: call_later(theirs),
            "our callLater, fired": lambda: call_later(ours),
            "stock callLater, cancelled": lambda: batch_later(theirs),
            "our callLater, cancelled": lambda: batch_later(ours),
            "stock callFromThread": lambda: from_thread(theirs),
            "our callFromThread": lambda: from_thread(ours),
        }
    )
    for name, micros in (awaits | timers).items():
        print(f"{kind:8} {name:28} {micros:7.2f} µs")
    crossing = (awaits["Deferred"] - awaits["Deferred alone"]) / awaits["Future"]
    print(f"{kind:8} awaiting a Deferred: {awaits['Deferred'] / awaits['Future']:.2f}x a Future alone")
    floor = (awaits["two turns"] + awaits["Deferred alone"]) / awaits["Future"]
    print(f"{kind:8} two turns of the loop and a Deferred alone: {floor:.2f}x a Future alone")
    print(f"{kind:8} awaiting a Deferred: {crossing:.2f}x a Future, without what a Deferred alone costs")
    print(
        f"{kind:8} awaiting a Deferred: {awaits['Deferred'] / awaits['both apart']:.2f}x a Future and a Deferred apart"
    )
    print(f"{kind:8} awaiting a Deferred: {awaits['Deferred'] / awaits['asFuture']:.2f}x Twisted's asFuture")
    for how in ("fired", "cancelled"):
        ratio = timers[f"our callLater, {how}"] / timers[f"stock callLater, {how}"]
        print(f"{kind:8} callLater, {how}: {ratio:.2f}x stock")
    ratio = timers["our callFromThread"] / timers["stock callFromThread"]
    print(f"{kind:8} callFromThread: {ratio:.2f}x stock")


if __name__ == "__main__":
    for each in sys.argv[1:] or ["asyncio", "uvloop"]:
        main(each)
