"""
A shadow that hangs, crashes, floods or leaks changes nothing for the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import random
import threading

import anyio.to_thread
import attrs
import pytest

from bridge.dispatch import Dropped, Limits, ShadowQueue, in_shadow
from bridge.dispatch.circuit import Circuits
from bridge.dispatch.run import Mark
from bridge.parity import Capture, Effect, Ending
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.dispatch.conftest import alive, answering

SOON = Limits(deadline=0.02, grace=0.01, linger=0.05)


def test_a_hung_shadow(house, play):
    """
    It is told that the client has gone, then cancelled, and observed as out of time.
    """
    ended = []

    async def hangs(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(in_shadow())

    async def story():
        h = house(modern=hangs, limits=SOON)

        assert (200, b"x") == await h.get()
        await h.shadows.settled()

        assert Ending.DEADLINE is h.bench.trials[0].other.ending
        assert [True] == ended
        assert (0, 0, 0) == (h.shadows.busy, h.shadows.held, h.shadows.lingering)

    play(story())


def test_a_shadow_that_listens_ends_by_itself(house, play):
    """
    At its deadline a shadow first hears a disconnect, as from a client that left.
    """

    async def listens(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def story():
        h = house(modern=listens, limits=attrs.evolve(SOON, grace=60.0))

        await h.get()
        await h.shadows.settled()

        assert Ending.DEADLINE is h.bench.trials[0].other.ending

    play(story())


def test_a_shadow_that_refuses_to_die_holds_its_slot(house, play):
    """
    The trial is judged only when the slot's holder is known; meanwhile what waits is
    dropped, not run beside it.
    """

    async def story():
        free = asyncio.Event()

        async def refuses(scope, receive, send):
            while not free.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await free.wait()

        h = house(modern=refuses, limits=attrs.evolve(SOON, running=1, waiting=1))
        await h.get()
        await h.bench.hear()
        held = (h.shadows.busy, h.shadows.lingering)
        await h.get()
        await h.get()
        waits = h.shadows.waiting
        free.set()
        await h.shadows.settled()

        assert (1, 1) == held
        assert 1 == waits
        assert [("GET /a", Dropped.FULL)] == h.bench.drops
        assert 0 == h.shadows.busy

    play(story())


def test_a_slot_is_held_until_its_thread_ends(house, play):
    """
    A cancelled handler frees its place in the pool, but not its thread: twenty hung
    ones keep as many threads as there are slots, not twenty.

    (L21.  Without the wait on the mark this saw one thread for each request.)
    """

    async def story():
        release, alive, most = threading.Event(), 0, 0

        def hangs():
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            release.wait()
            alive -= 1

        async def sync(scope, receive, send):
            await anyio.to_thread.run_sync(hangs)

        h = house(modern=sync, limits=attrs.evolve(SOON, running=2, linger=60.0))
        for _ in range(20):
            assert 200 == (await h.get())[0]
        await h.bench.hear(2)
        for _ in range(100):  # more would start now, if they could
            await asyncio.sleep(0)
        seen = (most, h.shadows.busy, h.shadows.lingering)
        h.shadows.circuits.after = 0
        release.set()
        h.shadows._waiting.clear()
        await h.shadows.settled()

        assert (2, 2, 2) == seen
        assert (0, 0) == (h.shadows.busy, h.shadows.lingering)

    play(story())


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_crashing_shadow(house, play, error):
    """
    Whatever it raises is observed, and reaches neither the client nor the loop.
    """

    async def crashes(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        raise error

    async def story():
        h = house(modern=crashes)

        assert (200, b"x") == await h.get()
        await h.shadows.settled()

        other = h.bench.trials[0].other
        assert (Ending.RAISED, error.__name__, 200) == (other.ending, other.error, other.status)

    play(story())


def test_a_flooding_shadow(house, play):
    """
    A body without an end is stopped at the limit, without being held, and without
    keeping the loop for itself.
    """

    async def floods(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})

    async def story():
        capture = Capture(prefix=100, limit=50_000)
        h = house(modern=floods, limits=Limits(capture=capture))
        turns = 0

        async def others():
            nonlocal turns
            while not h.bench.trials:
                turns += 1
                await asyncio.sleep(0)

        await h.get()
        await others()
        await h.shadows.settled()

        other = h.bench.trials[0].other
        assert (Ending.FLOODED, True, 100) == (other.ending, other.truncated, len(other.prefix))
        assert turns >= 50

    play(story())


def test_an_effect_flood(house, play):
    """
    Effects have a limit as well.
    """

    async def floods(scope, receive, send):
        for n in range(5000):
            scope["extensions"]["bgserver.effects"]("row", f"t:{n}")
        await answering(b"x")(scope, receive, send)

    async def story():
        h = house(modern=floods)

        await h.get()
        await h.shadows.settled()

        assert 1000 == len(h.bench.trials[0].other.effects)

    play(story())


def test_contexts_are_separate(house, play):
    """
    A shadow sees nothing of the request's context, and leaves nothing in another's.
    """
    user = contextvars.ContextVar("user", default="nobody")
    seen = []

    async def legacy(scope, receive, send):
        user.set("client")
        await answering(b"x")(scope, receive, send)

    async def modern(scope, receive, send):
        seen.append(user.get())
        user.set("shadow")
        await answering(b"x")(scope, receive, send)

    async def story():
        h = house(legacy, modern)

        await h.get()
        await h.get()
        await h.shadows.settled()

        assert ["nobody", "nobody"] == seen
        assert ("client" if h.straight is None else "nobody") == user.get()
        assert not in_shadow()

    play(story())


def test_a_queue_that_is_full_never_waits(house, play):
    """
    What doesn't fit is dropped, and counted by its reason: too many, or too heavy.
    """

    async def story():
        free = asyncio.Event()

        async def slow(scope, receive, send):
            await free.wait()
            await answering(b"x")(scope, receive, send)

        h = house(modern=slow, match="POST /a", effects=Effects.NONE, limits=Limits(running=1, waiting=3, held=1000))
        for size in (10, 900, 10, 200, 10, 10):
            await h.messages("POST", "/a", [b"x" * size])
        drops = list(h.bench.drops)
        free.set()
        await h.shadows.settled()

        assert [Dropped.HEAVY, Dropped.FULL] == [why for _, why in drops]
        assert 4 == len(h.bench.trials)
        assert 0 == h.shadows.held

    play(story())


def test_a_judge_that_fails_is_nobodys_fault(house, play, caplog):
    """
    An error in judging is logged, and the next request is shadowed as before.
    """

    async def story():
        h = house()

        def fails(trial):
            raise ZeroDivisionError

        h.shadows.judge = attrs.make_class("Judge", [])()
        h.shadows.judge.judge = fails
        h.shadows.judge.dropped = fails
        for _ in range(2):
            assert (200, b"x") == await h.get()
            await h.shadows.settled()

    play(story())
    assert 2 == caplog.text.count("judging it failed")


def test_noise_is_measured_on_the_same_request(house, play):
    """
    The answering side is run again beside the other, in an order of chance.
    """
    order = []

    def app(name):
        async def inner(scope, receive, send):
            order.append(name)
            await answering(name.encode())(scope, receive, send)

        return inner

    async def story():
        h = house(app("legacy"), app("modern"), replicate=True)
        h.shadows.shuffled = lambda sides: sides.reverse()

        await h.get()
        await h.shadows.settled()

        [trial] = h.bench.trials
        assert ["legacy", "legacy", "modern"] == order
        assert (b"modern", b"legacy") == (trial.other.prefix, trial.replicate.prefix)

    play(story())


def test_an_adapter_may_hold_an_observation_open(house, play):
    """
    Work that an adapter knows to go on belongs to the shadow, up to its deadline.
    """

    async def story():
        holding = asyncio.Event()
        done = []

        async def adapter(scope, receive, send):
            release = scope["extensions"]["bgserver.shadow"].hold()
            done.append((scope["extensions"]["bgserver.effects"], release))
            await answering(b"x")(scope, receive, send)
            holding.set()

        h = house(modern=adapter)
        await h.get()
        await holding.wait()
        open_ = not h.bench.trials
        effect, release = done[0]
        effect("mail", "late")
        release()
        release()
        await h.shadows.settled()

        assert open_
        assert (Effect("mail", "late"),) == h.bench.trials[0].other.effects

    play(story())


def test_the_circuit_opens(house, play):
    """
    After several shadows out of time none is tried for a while; the next that is in
    time closes it again.
    """
    now = [0.0]

    async def story():
        h = house(modern=answering(b"x"))
        h.shadows.circuits = Circuits(after=2, pause=30.0)
        h.shadows.clock = lambda: now[0]
        for _ in range(2):
            h.shadows.circuits.ended("GET /a", Ending.DEADLINE, 0.0)
        await h.get()
        while_open = list(h.bench.drops)
        now[0] = 30.0
        await h.get()
        await h.get()
        await h.shadows.settled()
        after = list(h.bench.drops)
        await h.get()
        await h.shadows.settled()

        assert [("GET /a", Dropped.OPEN)] == while_open
        assert 2 == len(after)
        assert 2 == len(h.bench.trials)
        assert not h.shadows.circuits.is_open("GET /a")

    play(story())


def test_an_answer_whose_work_never_ends(house, play):
    """
    The answering side's background work is waited for no longer than a shadow's.
    """

    async def story():
        stop = asyncio.Event()

        async def legacy(scope, receive, send):
            await answering(b"x")(scope, receive, send)
            await stop.wait()

        h = house(legacy, limits=SOON)
        request = asyncio.ensure_future(h.get())
        await h.bench.hear()
        await h.shadows.settled()
        judged = len(h.bench.trials)
        stop.set()
        await request

        assert 1 == judged

    play(story())


def test_closing(house, play):
    """
    A queue that closes takes no more, drops what waits, and ends what runs.
    """

    async def story():
        async def hangs(scope, receive, send):
            await asyncio.Event().wait()

        h = house(modern=hangs, limits=Limits(running=1))
        await h.get()
        await h.get()
        await asyncio.sleep(0)
        await h.shadows.close()
        await h.get()

        # The one that hung, the one that waited for it, and the one that came too late.
        assert [Dropped.CLOSED] * 3 == [why for _, why in h.bench.drops]
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        assert not {task for task in others if not task.done()}

    play(story())


def test_what_has_begun_is_judged_at_the_end(house, play):
    """
    A shadow that only waits for the loop to come to rest is run when the queue closes: a server that is stopped right
    after its last answers loses none of them.

    Seen to fail with what runs cancelled at once: its pair was lost, and nobody counted it.
    """

    async def story():
        h = house()
        h.shadows.lull.turns, h.shadows.lull.patience = 1_000_000, 60.0
        h.shadows.lull.clock = itertools.count().__next__

        await h.get()
        await h.shadows.close()

        assert (1, []) == (len(h.bench.trials), h.bench.drops)

    play(story())


def test_shadows_take_no_clients_thread(house, play):
    """
    The limit of threads is raised by as many as there are shadows, until they close.
    """

    async def story():
        limiter = anyio.to_thread.current_default_thread_limiter()
        before = limiter.total_tokens
        h = house(limits=Limits(running=3))

        await h.get()
        await h.get()
        during = limiter.total_tokens
        await h.shadows.close()

        assert (before + 3, before) == (during, limiter.total_tokens)

    play(story())


def test_nothing_to_shadow_with(house, play):
    """
    A sandboxed route without sandboxes, and a side that can't be shadowed, are counted.
    """

    async def story():
        h = house(match="POST /a", effects=Effects.SANDBOXED)
        await h.messages("POST", "/a")
        other = house()
        other.shadows.apps = {}
        await other.get()

        assert [("POST /a", Dropped.ABSENT)] == h.bench.drops
        assert [("GET /a", Dropped.ABSENT)] == other.bench.drops

    play(story())


def test_memory_is_given_back(house, play):
    """
    After many shadowed requests nothing of them is left.
    """

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x" * 10_000})

    async def story():
        h = house(app, app)
        before = alive(Mark)
        for _ in range(50):
            await h.get()
        await h.shadows.settled()
        h.bench.trials.clear()

        assert before == alive(Mark)
        assert (0, 0, 0) == (h.shadows.busy, h.shadows.held, h.shadows.waiting)

    play(story())


def test_a_thousand_flips_under_load(house, play):
    """
    Stages change under requests that run and streams that are open: none fails, is lost
    or answered twice, each keeps the side that it began with, and effects happen once.
    """
    stages = [Stage.LEGACY, Stage.SHADOW, Stage.CANARY, Stage.LIVE, Stage.MODERN]

    def side(name, effects):
        async def inner(scope, receive, send):
            await receive()
            if "bgserver.shadow" not in scope.get("extensions", {}):
                effects.append(scope["path"])
            await send({"type": "http.response.start", "status": 200})
            for n in range(3):
                await asyncio.sleep(0)
                await send({"type": "http.response.body", "body": name + b"%d" % n, "more_body": True})
            await send({"type": "http.response.body", "body": name})

        return inner

    async def story():
        effects: list = []
        h = house(side(b"old", effects), side(b"new", effects), match="GET /{n}")
        h.shadows.limits = Limits(waiting=10_000, running=16)
        answers: list = []

        async def client(first):
            for n in range(first, first + 100):
                answers.append((f"/{n}", await h.get(f"/{n}", client=f"192.0.2.{n % 200}")))

        clients = [asyncio.ensure_future(client(100 * n)) for n in range(20)]
        dice = random.Random(5)  # a steady beat would meet requests of the same length always
        for n in range(1000):
            route = Route("GET /{n}", dice.choice(stages), weight=50.0)
            h.dispatcher.table.swap(RouteTable.build([route], version=n))
            await asyncio.sleep(0)
        await asyncio.gather(*clients)
        await h.shadows.settled()

        assert 2000 == len(answers)
        whole = {b"old0old1old2old", b"new0new1new2new"}
        assert {(200, body) for body in whole} == {answer for _, answer in answers}
        assert sorted(path for path, _ in answers) == sorted(effects)
        for trial in h.bench.trials:
            assert {trial.answer.prefix, trial.other.prefix} == whole

    play(story())


def test_a_cell_is_read_once(house, play):
    """
    A stage that changes while a request runs touches it not: its shadow is the one of
    its own decision.
    """

    async def story():
        h = house(stage=Stage.SHADOW)

        async def flips(scope, receive, send):
            h.dispatcher.table.swap(RouteTable.build([Route("GET /a", Stage.MODERN)]))
            await answering(b"x")(scope, receive, send)

        h.dispatcher.sides = {**h.dispatcher.sides, Side.LEGACY: flips}
        await h.get()
        await h.shadows.settled()

        assert Stage.SHADOW is h.bench.trials[0].decision.route.stage
        assert isinstance(h.dispatcher.table, Cell)
        assert isinstance(h.shadows, ShadowQueue)

    play(story())
