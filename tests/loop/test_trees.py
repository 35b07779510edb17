"""
Trees of Deferreds, tasks and threads, cancelled at any point.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import defer, task
from twisted.internet.defer import Deferred

from bridge.loop.awaiting import as_awaitable, as_deferred, shielded
from bridge.loop.ledger import Share
from bridge.loop.loops import make_loop
from bridge.loop.reactor import BridgeReactor
from bridge.loop.threads import defer_to_worker

LONG = os.environ.get("BGSERVER_LONG") == "1"

Tree = tuple[str, list[Any]]

_leaves = st.sampled_from(["sleep", "timer", "thread", "fired"]).map(lambda kind: (kind, []))
_trees = st.recursive(
    _leaves,
    lambda children: st.tuples(
        st.sampled_from(["task", "inline", "group", "chain"]), st.lists(children, min_size=1, max_size=3)
    ),
    max_leaves=10,
)


@attrs.define
class Grown:
    """
    Runs one tree, and notes what its nodes saw.
    """

    reactor: BridgeReactor
    begun: list[int] = attrs.field(factory=list)
    cleaned: list[int] = attrs.field(factory=list)
    seen: list[tuple[str, type[BaseException]]] = attrs.field(factory=list)

    def deferred(self, tree: Tree) -> Deferred[Any]:
        kind, children = tree
        if kind == "timer":
            return task.deferLater(self.reactor, 0.001)
        if kind == "thread":
            return defer_to_worker(self.reactor, self._work)
        if kind == "fired":
            return defer.succeed(None)
        if kind == "inline":
            return self._inline(children)
        if kind == "chain":
            return self._chain(children)
        return as_deferred(self._coroutine(tree))

    def awaitable(self, tree: Tree) -> Awaitable[Any]:
        if tree[0] in ("task", "group", "sleep"):
            return self._coroutine(tree)
        return as_awaitable(self.deferred(tree))

    def _work(self, stop: threading.Event) -> None:
        me = self._begin()
        stop.wait(0.002)
        self.cleaned.append(me)

    def _begin(self) -> int:
        me = len(self.begun)
        self.begun.append(me)
        return me

    async def _coroutine(self, tree: Tree) -> None:
        kind, children = tree
        if kind == "sleep":
            await asyncio.sleep(0.001)
            return
        me = self._begin()
        try:
            if kind == "group":
                async with asyncio.TaskGroup() as group:
                    for child in children:
                        group.create_task(self._one(child))
            else:
                for child in children:
                    await self.awaitable(child)
        except BaseException as exc:
            self.seen.append(("asyncio", type(exc)))
            raise
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.cleaned.append(me)

    async def _one(self, child: Tree) -> None:
        await self.awaitable(child)

    @defer.inlineCallbacks
    def _inline(self, children: list[Tree]) -> Iterator[Deferred[Any]]:
        me = self._begin()
        try:
            for child in children:
                yield self.deferred(child)
        except BaseException as exc:
            self.seen.append(("twisted", type(exc)))
            raise
        finally:
            try:
                yield task.deferLater(self.reactor, 0)
            finally:
                self.cleaned.append(me)

    def _chain(self, children: list[Tree]) -> Deferred[Any]:
        me = self._begin()
        chain: Deferred[Any] = defer.succeed(None)
        for child in children:
            chain.addCallback(lambda _, child=child: self.deferred(child))

        def clean(result: Any) -> Any:
            self.cleaned.append(me)
            return result

        return chain.addBoth(clean)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def world(request):
    with asyncio.Runner(loop_factory=lambda: make_loop(request.param)) as runner:
        reactor = BridgeReactor(runner.get_loop())
        serving = runner.get_loop().create_task(reactor.serve())
        runner.run(asyncio.sleep(0))
        yield runner, reactor
        reactor.callLater(0, reactor.stop)
        runner.run(asyncio.wait_for(serving, 5))


_settings = settings(
    max_examples=1500 if LONG else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def _grown(reactor: BridgeReactor, tree: Tree, turns: int, by: str) -> Grown:
    grown = Grown(reactor)
    ended: type[BaseException] | None = None
    before = asyncio.all_tasks()
    if by == "task":
        root = asyncio.ensure_future(grown._one(tree))
        for _ in range(turns):
            await asyncio.sleep(0)
        root.cancel()
        try:
            await asyncio.wait_for(root, 5)
        except asyncio.CancelledError:
            ended = asyncio.CancelledError
    else:
        deferred = grown.deferred(tree)
        outcome: list[type[BaseException]] = []
        deferred.addErrback(lambda failure: outcome.append(failure.type))
        for _ in range(turns):
            await asyncio.sleep(0)
        deferred.cancel()
        await asyncio.wait_for(as_awaitable(deferred), 5)
        ended = outcome[0] if outcome else None
        assert ended in (None, defer.CancelledError)
    # Everything that began has cleaned up, now and not later.
    assert sorted(grown.begun) == sorted(grown.cleaned)
    for where, kind in grown.seen:
        assert kind in ({asyncio.CancelledError} if where == "asyncio" else {defer.CancelledError})
    # A Deferred's last callback runs before the task behind it is off the loop's list.
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}
    return grown


@pytest.mark.timeout(900)
@_settings
@given(tree=_trees, turns=st.integers(0, 40), by=st.sampled_from(["task", "deferred"]))
def test_cancelling_a_tree_leaves_nothing(world, tree, turns, by):
    """
    Cancelled at any point and from either side, a tree ends with the right exception in each of its nodes, after all
    clean-up, and leaves no task and no busy thread.
    """
    runner, reactor = world
    runner.run(_grown(reactor, tree, turns, by))

    assert 0 == reactor.ledger.usage()[Share.LEGACY].busy


def test_a_tree_that_is_left_alone_finishes(world):
    """
    The same trees, uncancelled, come to their end.
    """
    runner, reactor = world
    tree = (
        "task",
        [("inline", [("thread", []), ("group", [("sleep", []), ("timer", [])])]), ("chain", [("fired", [])])],
    )

    async def main() -> Grown:
        grown = Grown(reactor)
        await grown.awaitable(tree)
        return grown

    grown = runner.run(main())

    assert [] == grown.seen
    assert sorted(grown.begun) == sorted(grown.cleaned)


def test_a_shielded_branch_survives(world):
    """
    What is behind a shield goes on when the tree is cancelled.
    """
    runner, reactor = world

    async def main() -> bool:
        grown = Grown(reactor)
        branch = grown.deferred(("inline", [("timer", [])]))
        root = asyncio.ensure_future(as_awaitable(shielded(branch)))
        await asyncio.sleep(0)
        root.cancel()
        await asyncio.wait({root})
        await as_awaitable(branch)
        return root.cancelled() and grown.begun == grown.cleaned

    assert runner.run(main())
