"""
Owns one run of a shadow: an application on a replay, in a context of its own,
against a deadline.

Refuses: to let it answer anyone, to raise whatever it raises, and to forget what it
left running.  A run that is cut off goes on holding its slot until its task has
ended and nothing that was started in its context is alive any more: a cancelled
coroutine frees its place in a thread pool, but not the thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import attrs

from bridge.dispatch.asgi import EFFECTS, SHADOW, App, Message, Scope
from bridge.dispatch.tape import Replay
from bridge.parity.observe import Capture, Ending, Observation, Recording

# Where a server offers these, the body would go past the recorder.
_PAST_US = ("http.response.pathsend", "http.response.zerocopysend")


class ShadowOver(OSError):
    """
    Raised to a shadow that sends past its end, as a server does when the client
    has gone.
    """


@attrs.define(eq=False, slots=False)
class Mark:
    """
    What C{scope["extensions"]["bgserver.shadow"]} holds: the sign that nobody will
    see this answer, and the way to keep the observation open.

    @ivar route: The route's name.
    """

    route: str
    _holds: set[object] = attrs.field(factory=set)
    _let_go: asyncio.Event = attrs.field(factory=asyncio.Event)

    def hold(self) -> Callable[[], None]:
        """
        Keep the observation open, past the application's return, until what comes
        back is called; for work that an adapter knows to go on.
        """
        hold = object()
        self._holds.add(hold)

        def release() -> None:
            self._holds.discard(hold)
            self._let_go.set()

        return release

    async def let_go(self) -> None:
        """
        Wait until nothing holds the observation open.
        """
        while self._holds:
            self._let_go.clear()
            await self._let_go.wait()


_mark: contextvars.ContextVar[Mark] = contextvars.ContextVar("bgserver_shadow")


def in_shadow() -> bool:
    """
    Whether the calling code runs on behalf of a shadow.
    """
    return _mark.get(None) is not None


def shadow_scope(scope: Scope, mark: Mark, recording: Recording) -> Scope:
    """
    The scope that a shadow gets, which shares nothing that it could write to.
    """
    made = dict(scope)
    made["headers"] = list(scope.get("headers", ()))
    if "state" in scope:
        made["state"] = dict(scope["state"])
    kept = {n: v for n, v in (scope.get("extensions") or {}).items() if n not in _PAST_US}
    made["extensions"] = {**kept, SHADOW: mark, EFFECTS: recording.effect}
    return made


@attrs.frozen
class Ran:
    """
    @ivar lingering: What must end before the run's slot is free; None if nothing.
    """

    observation: Observation
    lingering: Callable[[float], Coroutine[Any, Any, None]] | None = None


@attrs.define(eq=False)
class _Sent:
    recording: Recording
    replay: Replay
    clock: Callable[[], float]
    over: bool = False

    async def send(self, message: Message) -> None:
        recording = self.recording
        if self.over or recording.observation is not None:
            raise ShadowOver("nobody listens to a shadow any more")
        kind = message["type"]
        if kind == "http.response.start":
            recording.started(message["status"], message.get("headers", ()), self.clock())
        elif kind == "http.response.body":
            recording.wrote(message.get("body", b""))
            if not message.get("more_body", False):
                self.over = True
                recording.ended = self.clock()
                self.replay.end()
            elif recording.enough or recording.flooded:
                how = Ending.ENOUGH if recording.enough else Ending.FLOODED
                recording.closed(how, self.clock())
                self.replay.end()
        if message.get("more_body", False):
            # A shadow that writes without end must not keep the loop for itself.
            await asyncio.sleep(0)


async def run(
    app: App,
    scope: Scope,
    chunks: Sequence[bytes],
    capture: Capture,
    route: str,
    deadline: float,
    grace: float,
    clock: Callable[[], float],
) -> Ran:
    """
    Run an application once for nobody, and say what it answered.

    At the deadline it learns that the client has gone; after C{grace} seconds more
    it is cancelled.  Runs on the loop's thread; never raises what the application
    raised.
    """
    loop = asyncio.get_running_loop()
    recording, replay = Recording(clock(), capture, scope["method"] == "HEAD"), Replay(chunks)
    sent = _Sent(recording, replay, clock)
    mark = Mark(route)
    context = contextvars.Context()
    context.run(_mark.set, mark)
    task = loop.create_task(_call(app, scope, mark, sent), context=context)
    # From here on only what runs in the context keeps the mark.
    kept = weakref.ref(mark)
    del mark, context
    try:
        await _over_within(deadline, task, loop)
        if task.done():
            assert recording.observation is not None
            return Ran(recording.observation)
        observation = recording.closed(Ending.DEADLINE, clock())
        replay.end()
        await asyncio.wait({task}, timeout=grace)
        if task.done():
            return Ran(observation)
    finally:
        task.cancel()
    return Ran(observation, _Lingering(task, _gone(loop, kept)).wait)


async def _over_within(seconds: float, task: asyncio.Task[None], loop: asyncio.AbstractEventLoop) -> None:
    """
    Until a task is over, or so long: C{asyncio.wait} for one, at a third of its cost.
    """
    waiter = loop.create_future()

    def release(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(seconds, release)
    task.add_done_callback(release)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(release)


async def _call(app: App, scope: Scope, mark: Mark, sent: _Sent) -> None:
    recording = sent.recording
    # What the loop did before it came to this is not the application's time.
    recording.began = sent.clock()
    try:
        await app(shadow_scope(scope, mark, recording), sent.replay.receive, sent.send)
        await mark.let_go()
    except BaseException as e:
        # Even SystemExit: raised out of a task, it would end the loop.
        recording.closed(Ending.RAISED, sent.clock(), type(e).__name__)
    else:
        recording.closed(Ending.COMPLETE if sent.over else Ending.SHORT, sent.clock())


def _gone(loop: asyncio.AbstractEventLoop, kept: weakref.ref[Mark]) -> asyncio.Event:
    """
    An event for the moment when nothing keeps a mark any more. Only runs that are cut off need it.
    """
    ended = asyncio.Event()
    mark = kept()
    if mark is None:
        ended.set()
    else:
        weakref.finalize(mark, _from_any_thread, loop, ended.set).atexit = False
    return ended


def _from_any_thread(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    # The last to hold a context may be a pool's thread.
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


@attrs.define(eq=False)
class _Lingering:
    task: asyncio.Task[None] | None
    ended: asyncio.Event

    async def wait(self, longest: float) -> None:
        """
        Until the task is over, however long it takes, and then until nothing lives
        in its context, or C{longest} seconds.
        """
        assert self.task is not None
        await asyncio.wait({self.task})
        self.task = None
        try:
            async with asyncio.timeout(longest):
                await self.ended.wait()
        except TimeoutError:
            pass
