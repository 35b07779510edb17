"""
Owns how a C{[[loop]]} of the policy becomes a supervised loop: its service taken out of
the legacy tree, its callable out of C{app.state.loops}, its lease behind the state's
thread, and what a dry run shows among the evidence.

Without the state there are no leases, so nothing is taken out: legacy runs its loops by
itself, as it did before, and modern's stay off.

Refuses: to start one.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import attrs
from twisted.application.service import IServiceCollection

from bridge.background.observing import Observation, unobservable
from bridge.background.ownership import LoopStage
from bridge.background.pairing import Paired
from bridge.background.runners import LegacyRunner, ModernRunner, Runner
from bridge.background.supervisor import LoopSupervisor
from bridge.config import Config, LoopConfig
from bridge.errors import ConfigError
from bridge.loop import as_awaitable
from bridge.routing import Side
from bridge.state.leases import Lease
from bridge.state.store import Store
from bridge.state.thread import StateThread

Loop = Callable[..., Awaitable[None]]
Judge = Callable[[str, Paired], None]
"""
Told of each tick of a loop, by its name, that a dry run and its owner were compared in.
"""


def supervised(
    config: Config,
    service: Any | None,
    modern: Any | None,
    leases: ThreadLeases | None,
    stored: Callable[[str], str | None],
    judge: Judge,
) -> tuple[LoopSupervisor, ...]:
    """
    A supervisor for each loop that the policy names.

    @param service: The legacy tree, not started yet.
    @param modern: The modern application, its lifespan not started yet.
    @param leases: Those of the process; None where it has no state.
    @param stored: The stage that the state has for a loop; None where it has none.
    @raise ConfigError: If one of them isn't there, or starts in a dry run that it
        doesn't have.
    """
    if leases is None:
        for loop in config.loops:
            if loop.modern is not None and modern is not None:
                _claimed(config, loop, modern)
        return ()
    boot = boot_id()
    return tuple(
        LoopSupervisor(
            loop.name,
            _stage_of(config, loop, stored),
            runners,
            leases,
            boot,
            time.monotonic,
            patience=loop.lease,
            drain=loop.drain,
            observation=observation if isinstance(observation, Observation) else None,
            unobservable=observation if isinstance(observation, str) else "",
        )
        for loop in config.loops
        for runners in [_runners(config, loop, service, modern)]
        for observation in [_observation(config, loop, runners, judge)]
    )


def _observation(config: Config, loop: LoopConfig, runners: dict[Side, Runner], judge: Judge) -> Observation | str:
    """
    The dry run of a loop, or why it has none.
    """
    legacy, modern = runners.get(Side.LEGACY), runners.get(Side.MODERN)
    assert isinstance(legacy, LegacyRunner)
    called = modern.loop if isinstance(modern, ModernRunner) else None
    why = unobservable(called, legacy.service)
    if not why and called is not None:
        return Observation(loop.name, called, legacy.observed, partial(judge, loop.name))
    if loop.stage == LoopStage.OBSERVE.value and not config.force_legacy:
        raise ConfigError(config.source, f"loop {loop.name!r}.stage", why)
    return why


def boot_id() -> str:
    """
    Who this process is in a lease; no later process is the same.
    """
    return f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _stage_of(config: Config, loop: LoopConfig, stored: Callable[[str], str | None]) -> Callable[[], LoopStage]:
    def stage() -> LoopStage:
        if config.force_legacy:
            return LoopStage.LEGACY
        return LoopStage(stored(loop.name) or loop.stage)

    return stage


def _runners(config: Config, loop: LoopConfig, service: Any | None, modern: Any | None) -> dict[Side, Runner]:
    runners: dict[Side, Runner] = {}
    if loop.legacy is not None:
        runners[Side.LEGACY] = LegacyRunner(_detached(config, loop, service), as_awaitable)
    if loop.modern is not None and modern is not None:
        runners[Side.MODERN] = ModernRunner(_claimed(config, loop, modern))
    return runners


@attrs.define(eq=False)
class ThreadLeases:
    """
    The leases of the state database, off the loop's thread; one for a process.  Renewals
    that are due at the same time are one write: they are most of what an idle server does.
    """

    thread: StateThread
    _due: list[tuple[Lease, asyncio.Future[Lease | None]]] = attrs.field(factory=list, init=False)
    _renewing: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    def lease(self, name: str) -> Awaitable[Lease | None]:
        return self.thread.call(Store.lease, name)

    def acquire(self, name: str, holder: str, seen: Lease | None, floor: int) -> Awaitable[Lease | None]:
        return self.thread.call(Store.acquire, name, holder, seen, floor)

    async def renew(self, lease: Lease) -> Lease | None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Lease | None] = loop.create_future()
        self._due.append((lease, future))
        if self._renewing is None:
            self._renewing = loop.create_task(self._renew(), name="lease renewals")
        return await future

    async def _renew(self) -> None:
        try:
            # The supervisors that wake on this beat ask before it goes out.
            await self.thread.together()
            while self._due:
                lot, self._due = self._due, []
                try:
                    renewed = await self.thread.call(Store.renew_all, [lease for lease, _ in lot])
                except Exception as error:
                    for _, future in lot:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), lease in zip(lot, renewed, strict=True):
                    if not future.done():
                        future.set_result(lease)
        finally:
            self._renewing = None

    def release(self, lease: Lease) -> Awaitable[bool]:
        return self.thread.call(Store.release, lease)


def _detached(config: Config, loop: LoopConfig, service: Any | None) -> Any:
    assert loop.legacy is not None
    name = loop.legacy.removeprefix("service:")
    known = []
    for child in _descendants(service):
        if child.name == name:
            # From now on the harness alone starts and stops it.
            child.disownServiceParent()
            return child
        known.append(child.name)
    raise ConfigError(
        config.source,
        f"loop {loop.name!r}.legacy",
        f"legacy has no service named {name!r}; it has: {', '.join(sorted(filter(None, known))) or 'none'}.",
    )


def _descendants(service: Any | None) -> Iterator[Any]:
    children: Any = () if service is None else IServiceCollection(service, ())
    for child in children:
        yield child
        yield from _descendants(child)


def _claimed(config: Config, loop: LoopConfig, modern: Any) -> Loop:
    loops = getattr(getattr(modern, "state", None), "loops", None)
    if not isinstance(loops, dict) or loop.modern not in loops:
        known = ", ".join(sorted(loops)) if isinstance(loops, dict) else "none"
        raise ConfigError(
            config.source,
            f"loop {loop.name!r}.modern",
            f"app.state.loops has no {loop.modern!r}; it has: {known}. "
            "Fill it when the application is made, before its lifespan starts.",
        )
    made: Loop = loops.pop(loop.modern)
    if not callable(made):
        raise ConfigError(
            config.source,
            f"loop {loop.name!r}.modern",
            f"app.state.loops[{loop.modern!r}] is a {type(made).__name__}, and can't be called. "
            "It must be an async function that takes the epoch.",
        )
    return made
