"""
Owns the order in which a server starts and stops, whoever owns the loop.

Starting::

    PREPARE -> SERVICES -> LIFESPAN -> LOOPS -> ACCEPT -> READY

Stopping::

    ACCEPT -> DRAIN -> WEBSOCKETS -> LIFESPAN -> SERVICES -> TASKS -> GENERATORS -> POOLS

Steps are registered by name. Within a phase they start in the order of registration, and stop in
the reverse of it. Everything that happens is an L{Event}; the list of events is the same under
twistd and under uvicorn.

Draining may take C{grace} seconds, everything together C{grace + MARGIN}. A step that outlives
its time is cancelled, named in the log, and left if it doesn't listen. A second stop signal
takes all patience away; the order stays.

Refuses: to skip a stop step because another one failed; to stop twice.
"""

from __future__ import annotations

import asyncio
import enum
from asyncio import Future, Task
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bridge.errors import StartError, StoppingError
from bridge.loop.awaiting import as_deferred, keep
from bridge.loop.failures import failure_of
from bridge.loop.notify import Notifier
from bridge.loop.reactor import BridgeReactor
from bridge.loop.reports import Reports
from bridge.loop.stalls import StallWatch
from bridge.loop.teardown import end_tasks

_log = Logger()
_T = TypeVar("_T")

Step = Callable[[], Awaitable[object]]

#: Seconds after the grace in which the steps after the drain must be through.
MARGIN = 0.8
#: Seconds that a cancelled step gets for its clean-up, and any step once patience is gone.
_LEAST = 0.1


class Starting(enum.Enum):
    """
    What comes up, in this order.
    """

    PREPARE = "prepare"
    SERVICES = "services"
    LIFESPAN = "lifespan.startup"
    LOOPS = "loops"
    ACCEPT = "accept"
    READY = "ready"


class Stopping(enum.Enum):
    """
    What goes down, in this order.
    """

    ACCEPT = "stop accepting"
    DRAIN = "drain"
    WEBSOCKETS = "close websockets"
    LIFESPAN = "lifespan.shutdown"
    SERVICES = "stop services"
    TASKS = "cancel tasks"
    GENERATORS = "close generators"
    POOLS = "stop pools"


class How(enum.Enum):
    """
    How a step went.
    """

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    LEFT = "left behind"


class Stage(enum.Enum):
    """
    Where a life stands.
    """

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@attrs.frozen
class Event:
    """
    One step, once it is over.

    @ivar at: Seconds on the loop's clock, for people; two runs never agree on it.
    """

    phase: Starting | Stopping
    step: str
    how: How = How.DONE
    at: float = attrs.field(default=0.0, eq=False)


@attrs.define(eq=False)
class Life:
    """
    One start and one stop of one server. Runs on the reactor's thread.

    @ivar grace: Seconds for the drain.
    @ivar events: What happened, in order.
    @ivar watch: A stall watchdog that runs from the start to the end, where one is given.
    """

    _reactor: BridgeReactor
    grace: float = 4.0
    watch: StallWatch | None = None
    events: list[Event] = attrs.field(factory=list, init=False)
    stage: Stage = attrs.field(default=Stage.NEW, init=False)
    _starting: dict[Starting, list[tuple[str, Step]]] = attrs.field(
        factory=lambda: {phase: [] for phase in Starting}, init=False
    )
    _stopping: dict[Stopping, list[tuple[str, Step]]] = attrs.field(
        factory=lambda: {phase: [] for phase in Stopping}, init=False
    )
    _reports: Reports = attrs.field(init=False)
    _notifier: Notifier | None = attrs.field(factory=Notifier.from_environment, init=False)
    _tasks: set[Task[Any]] = attrs.field(factory=set, init=False)
    _began: float = attrs.field(default=0.0, init=False)
    _start_task: Task[None] | None = attrs.field(default=None, init=False)
    _failed_task: Task[None] | None = attrs.field(default=None, init=False)
    _stop_task: Task[None] | None = attrs.field(default=None, init=False)
    _forced: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._reports = Reports(self._loop)

    def on_start(self, phase: Starting, name: str, step: Step) -> None:
        """
        Run C{step} when the server starts. One that raises stops the start.
        """
        self._starting[phase].append((name, step))

    def on_stop(self, phase: Stopping, name: str, step: Step) -> None:
        """
        Run C{step} when the server stops. Steps of what never started must do nothing; register
        from a start step, after it succeeded, where that isn't so.
        """
        self._stopping[phase].append((name, step))

    @property
    def stopping(self) -> bool:
        """
        Whether the stop has begun.
        """
        return self.stage in (Stage.STOPPING, Stage.STOPPED)

    @property
    def deadline(self) -> float:
        """
        When the drain must be over, on the loop's clock; infinity while nothing stops.
        """
        if not self.stopping:
            return float("inf")
        return self._loop.time() if self._forced.is_set() else self._began + self.grace

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._reactor.loop

    def spawn(self, coroutine: Any, name: str) -> Task[Any]:
        """
        A task that this life owns: the phase TASKS cancels it and awaits its clean-up. If it
        fails, that is logged.

        @raise StoppingError: The stop has begun.
        """
        if self.stage is Stage.STOPPED or Stopping.TASKS in {event.phase for event in self.events}:
            coroutine.close()
            raise StoppingError(f"The task {name}")
        task: Task[Any] = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": f"The task {task.get_name()} failed", "exception": exc, "task": task}
            )

    # -- starting --------------------------------------------------------------------------

    async def start(self) -> None:
        """
        Bring everything up. If a step fails, what is up goes down again.

        @raise StartError: A step failed; its exception is the cause.
        """
        if self.stage is not Stage.NEW:
            raise RuntimeError(f"a life starts once; this one is {self.stage.value}")
        self.stage = Stage.STARTING
        self._start_task = asyncio.current_task()
        self._reports.install()
        if self.watch is not None:
            self.watch.start()
        try:
            for phase in Starting:
                for name, step in self._starting[phase]:
                    if self.stage is not Stage.STARTING:
                        return
                    await self._start_one(phase, name, step)
        finally:
            self._start_task = None
        # A stop that came during the last step has been awaited by whoever asked for it.
        if self.stage is Stage.STARTING:
            self.stage = Stage.RUNNING
            if self._notifier is not None:
                self._notifier.ready(self._loop)

    async def _start_one(self, phase: Starting, name: str, step: Step) -> None:
        try:
            await step()
        except Exception as exc:
            self._note(phase, name, How.FAILED)
            # The stop must neither wait for this task nor cancel it: it is the one to tell.
            self._failed_task, self._start_task = self._start_task, None
            await self.stop()
            raise StartError(phase.value, name, exc) from exc
        self._note(phase, name, How.DONE)

    # -- stopping --------------------------------------------------------------------------

    def stop(self) -> Future[None]:
        """
        Bring everything down, in order and once: later calls await the same stop. Cancelling
        what is returned does not cancel the stop.
        """
        if self._stop_task is None:
            self.stage = Stage.STOPPING
            self._began = self._loop.time()
            self._stop_task = keep(self._loop, self._loop.create_task(self._stop(), name="stop"))
        return asyncio.shield(self._stop_task)

    def force(self) -> None:
        """
        No more patience: the step that runs is cancelled, those that follow get
        a tenth of a second each.
        """
        if not self._forced.is_set():
            _log.warn("Told to stop again: not waiting any longer.")
            self._forced.set()

    def signalled(self, number: int) -> None:
        """
        What a stop signal does: the first begins the stop, the second forces it.
        """
        if self.stopping:
            self.force()
        elif self._reactor.running:
            self._reactor.stop()

    async def _stop(self) -> None:
        if self._notifier is not None:
            self._notifier.stopping()
        starting = self._start_task
        if starting is not None and starting is not asyncio.current_task():
            await asyncio.wait({starting}, timeout=self._left(Stopping.DRAIN))
        for phase in Stopping:
            for name, step in reversed(self._stopping[phase]):
                self._note(phase, name, await self._bounded(name, step, self._left(phase)))
            if phase is Stopping.TASKS:
                await self._end_tasks()
            elif phase is Stopping.GENERATORS:
                await self._close_generators()
            elif phase is Stopping.POOLS:
                left = await self._reactor.threads_ended(self._left(phase))
                self._note(phase, "threads", How.LEFT if left else How.DONE)
        if self._notifier is not None:
            self._notifier.close()
        if self.watch is not None:
            self.watch.stop()
        self._reports.uninstall()
        self.stage = Stage.STOPPED

    async def _end_tasks(self) -> None:
        # On a loop of our own, every task; on somebody else's, only what was started through this life.
        tasks = self._reactor.stray_tasks() if self._reactor.owned else set(self._tasks)
        tasks -= {asyncio.current_task(), self._stop_task, self._failed_task}
        stubborn = await end_tasks(tasks, self._left(Stopping.TASKS)) if tasks else set()
        self._note(Stopping.TASKS, "tasks", How.LEFT if stubborn else How.DONE)

    async def _close_generators(self) -> None:
        if self._reactor.owned:
            how = await self._bounded("generators", self._loop.shutdown_asyncgens, self._left(Stopping.GENERATORS))
        else:
            # The loop's owner closes them when it ends the loop; others' may be in use until then.
            how = How.DONE
        self._note(Stopping.GENERATORS, "generators", how)

    def _left(self, phase: Stopping) -> float:
        if self._forced.is_set():
            return _LEAST
        draining = phase in (Stopping.ACCEPT, Stopping.DRAIN, Stopping.WEBSOCKETS)
        until = self._began + self.grace + (0.0 if draining else MARGIN)
        return max(_LEAST, until - self._loop.time())

    async def _bounded(self, name: str, step: Step, seconds: float) -> How:
        task = asyncio.ensure_future(_call(step))
        forced = asyncio.ensure_future(self._forced.wait())
        try:
            if self._forced.is_set():
                await asyncio.wait({task}, timeout=seconds)
            else:
                await asyncio.wait({task, forced}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forced.cancel()
        how = How.DONE
        if not task.done():
            how = How.TIMED_OUT
            _log.warn("Stopping: not done in time, and cancelled: {step}.", step=name)
            task.cancel()
            await asyncio.wait({task}, timeout=_LEAST)
        if not task.done():
            _log.error("Stopping: ignored its cancellation, and left behind: {step}.", step=name)
            keep(self._loop, task)
            return How.LEFT
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.failure("Stopping: {step} failed.", failure_of(exc), step=name)
            return How.FAILED
        return how

    def _note(self, phase: Starting | Stopping, name: str, how: How) -> None:
        self.events.append(Event(phase, name, how, self._loop.time()))

    # -- the two modes ---------------------------------------------------------------------

    def bind(self) -> None:
        """
        Owned: live with the reactor. It starts this when it runs, and waits for it before it
        stops; its signals are this life's. A start that fails ends the process with status 1.
        """
        self._reactor.on_signal = self.signalled
        self._reactor.callWhenRunning(self._start_with_reactor)
        self._reactor.addSystemEventTrigger("before", "shutdown", self.stop_with_reactor)

    def _start_with_reactor(self) -> None:
        if self.stage is Stage.NEW:
            as_deferred(self.start()).addErrback(self._start_failed)

    def _start_failed(self, failure: Any) -> None:
        _log.failure("{message}", failure, message=str(failure.value))
        self._reactor.fail(1)

    def stop_with_reactor(self) -> Deferred[None] | None:
        """
        For a shutdown trigger or a C{stopService}: fires when everything is down.
        """
        if self.stage is Stage.NEW:
            self.stage = Stage.STOPPED
            return None
        return as_deferred(self.stop())

    @asynccontextmanager
    async def attached(self) -> AsyncIterator[None]:
        """
        Attached: live inside somebody else's loop, like an ASGI lifespan. On entry the reactor
        runs and everything is up, on exit everything is down and the reactor has stopped. If
        the reactor is stopped from within, this life stops with it; the loop goes on.
        """
        reactor = self._reactor
        reactor.addSystemEventTrigger("before", "shutdown", self.stop_with_reactor)
        served = keep(self._loop, self._loop.create_task(reactor.serve(), name="reactor"))
        try:
            # One turn of the loop, and the reactor has started.
            await asyncio.sleep(0)
            await self.start()
            yield
        finally:
            await self.stop()
            reactor.stop_if_running()
            await served


async def _call(step: Step) -> None:
    await step()
