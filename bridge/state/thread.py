"""
Owns the thread that the state database is worked on from a running server: it looks
for changes, carries writes out, and outlives a database that is slow, locked, full
or gone.  Traffic goes on at the last known stages.

Refuses: to make the loop wait.  What can't be written now is kept in a bounded
queue and tried again; what doesn't fit is lost, counted, and said once.  Refuses also to
follow another database than the one that it began with: a new one, empty, would send
every route back to its start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs

from bridge.errors import ReplacedStateError, StateError
from bridge.routing import Stage
from bridge.state.sqlite_file import FRESH
from bridge.state.stages import Change, Snapshot
from bridge.state.store import Store

P = ParamSpec("P")
T = TypeVar("T")
_Call = tuple[Callable[[Store], Any], asyncio.Future[Any]]

# Changes that one look tells of at most.
_TOLD = 50

# Seconds between two whole looks, whatever a glance shows.
_WHOLE = 5.0

# Seconds that those wait for each other who ask together.
_TOGETHER = 0.02

log = logging.getLogger("bridge.state")


@attrs.frozen
class Health:
    """
    How the state database is doing.

    @ivar problem: What it said last, or None while it works.
    @ivar lost: Writes that were given up since the start.
    @ivar waiting: Writes that wait for it.
    """

    problem: str | None
    lost: int
    waiting: int


@attrs.define(eq=False)
class StateThread:
    """
    The asynchronous face of one L{Store}.

    @ivar opens: Opens the store, on the thread; tried again until it works.
    @ivar changed: Called on the loop with each new snapshot.
    @ivar every: Seconds between two looks for changes.
    @ivar own: Whose ways back to legacy are said before they are recorded, and not again.
    @ivar depth: Offered writes that may wait.
    @ivar born: The number of the database that was read before the start, so that one
        which was replaced since then isn't followed; None is the first that is opened.
    """

    opens: Callable[[], Store]
    changed: Callable[[Snapshot], None]
    every: float = 0.4
    own: str = ""
    depth: int = 1000
    born: int | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _store: Store | None = None
    _version: int = -1
    _told: int = -1
    _calls: deque[_Call] = attrs.field(factory=deque)
    _offers: deque[Callable[[Store], Any]] = attrs.field(factory=deque)
    _wake: threading.Condition = attrs.field(factory=threading.Condition)
    _thread: threading.Thread | None = None
    _stopping: bool = False
    _problem: str | None = None
    _looked: float = 0.0
    _looked_at: tuple[object, ...] | None = None
    _lost: int = 0
    _said: int = 0
    _gathering: asyncio.Future[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop, known: int = -1) -> None:
        """
        Begin to look for changes past the version C{known}.
        """
        self._loop, self._version, self._told = loop, known, known
        self._thread = threading.Thread(target=self._run, name="bgserver-state", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Run C{function(store, …)} on the thread, before all offered writes.

        @raise StateError: If the database can't; nothing is tried again.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._stopping:
                raise StateError("The state is closed: the server is stopping.")
            self._calls.append((lambda store: function(store, *args, **kwargs), future))
            self._wake.notify()
        return await future

    async def together(self) -> None:
        """
        Wait a moment, with all others who do: what each of them calls then goes to the database at once, on one
        connection.  For what a timer has done: an idle server's timers fire on the same beat.
        """
        gathering = self._gathering
        if gathering is None:
            loop = asyncio.get_running_loop()
            gathering = self._gathering = loop.create_future()
            loop.call_later(_TOGETHER, self._gathered, gathering)
        await asyncio.shield(gathering)

    def _gathered(self, gathering: asyncio.Future[None]) -> None:
        self._gathering = None
        gathering.set_result(None)

    def offer(self, function: Callable[Concatenate[Store, P], Any], /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """
        Have C{function(store, …)} run when the database can, and never wait.  From
        any thread.

        @return: False if the queue is full, and the write is lost and counted.
        """
        with self._wake:
            if self._stopping or len(self._offers) >= self.depth:
                self._lost += 1
                return False
            self._offers.append(partial(_apply, function, args, kwargs))
            self._wake.notify()
        return True

    def health(self) -> Health:
        """
        How the database is doing now.  From any thread.
        """
        return Health(self._problem, self._lost, len(self._offers))

    async def stop(self, patience: float = 2.0) -> bool:
        """
        Write what is still offered, and end the thread.

        @param patience: Seconds to wait for it; a locked database may take longer
            and then loses what was offered.
        @return: Whether the thread ended.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        thread = self._thread
        if thread is None:
            return True
        loop = asyncio.get_running_loop()
        # Joining blocks, and the pool's threads may be busy: a thread of its own.
        ended: asyncio.Future[bool] = loop.create_future()

        def wait() -> None:
            thread.join(patience)
            _tell(loop, ended, not thread.is_alive(), None)

        threading.Thread(target=wait, name="bgserver-state-stop", daemon=True).start()
        done = await ended
        if not done or self._offers:
            self._lost += len(self._offers)
            log.warning("The state database didn't take %d writes before the stop.", len(self._offers))
        return done

    # -- on the thread -------------------------------------------------------------

    def _run(self) -> None:
        due, latest, polled = 0.0, 0.0, True
        while True:
            with self._wake:
                while not (self._calls or self._stopping or self._may_write()):
                    left = due - time.monotonic()
                    if left <= 0:
                        break
                    self._wake.wait(left)
                # However many call: between two of them is a look, or nobody would know of trouble
                # while each call waits for the database's patience.
                turn = polled or self._stopping or time.monotonic() < due
                job = self._calls.popleft() if self._calls and turn else None
            if job is not None:
                # What it changed is looked at when a glance can tell whether there is more: a look before that would
                # need another one. Who calls all the time holds no look up for long.
                answered = self._answer(job)
                due, polled = min(time.monotonic() + FRESH, latest) if answered else 0.0, False
            elif self._stopping:
                break
            elif time.monotonic() >= due:
                # After trouble one write at a time shows whether it is over.
                if self._poll() and self._problem is not None:
                    self._write_one()
                due, polled = time.monotonic() + self.every, True
                latest = due + self.every
            else:
                self._write_one()
        self._drain()
        if self._store is not None:
            self._store.close()

    def _may_write(self) -> bool:
        return bool(self._offers) and self._problem is None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Store, int]]:
        """
        The store, on one connection, and its counter of changes.
        """
        if self._store is None:
            self._store = self.opens()
        with self._store.database.at_once():
            born, version = self._store.database.marks()
            if self.born is None:
                self.born = born
            elif born != self.born:
                raise ReplacedStateError(self._store.database.shown)
            yield self._store, version

    def _answer(self, job: _Call) -> bool:
        """
        Answer a call, and while all goes well those that came with it; whether all went well.

        They hear of it when the connection is closed: what it leaves beside the file is gone then.
        """
        answered: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        lot = deque([job])
        try:
            with self._opened() as (store, _):
                with self._wake:
                    # Not what comes later: a file that is taken away is missed when it's opened the next time.
                    lot.extend(self._calls)
                    self._calls.clear()
                while lot:
                    answered.append((lot[0][1], lot[0][0](store), None))
                    lot.popleft()
        except BaseException as error:
            if lot:
                answered.append((lot.popleft()[1], None, error))
        with self._wake:
            self._calls.extendleft(reversed(lot))
        assert self._loop is not None
        for future, result, failed in answered:
            _tell(self._loop, future, result, failed)
        well = not answered or answered[-1][2] is None
        if well:
            self._looked = time.monotonic()
        return well

    def _nothing_new(self) -> bool:
        """
        Whether a glance shows that a whole look would find what the last one found.
        """
        if self._store is None or self._problem is not None or self._version < 0 or self._looked_at is None:
            return False
        # Now and then it's looked at all the same: a glance doesn't show each kind of trouble.
        if time.monotonic() - self._looked >= _WHOLE:
            return False
        glance = self._store.database.glance()
        if glance is None or glance == self._looked_at:
            return glance is not None
        # What was written may be no change: signs of life are, every other second.
        if self._store.database.glimpse(glance) != (self.born, self._version):
            return False
        self._looked_at = glance
        return True

    def _poll(self) -> bool:
        if self._nothing_new():
            return True
        try:
            # Before the look: what comes meanwhile is seen at the next one.
            glance = None if self._store is None else self._store.database.glance()
            with self._opened() as (store, version):
                snapshot = None if version == self._version else store.snapshot()
                told, changes = (self._told, []) if snapshot is None else _since(store, self._told)
        except Exception as error:
            self._looked_at = None
            self._failed(error)
            return False
        self._looked, self._looked_at = time.monotonic(), glance
        if not self._offers:
            # A full disk can be read: while a write waits, only a write ends the trouble.
            self._recovered()
        if snapshot is None:
            return True
        self._version = snapshot.version
        self._told = max(told, snapshot.version) if self._told < 0 else told
        for change in reversed(changes):
            self._say(change)
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self.changed, snapshot)
        except RuntimeError:
            self._stopping = True  # the loop is closed: nobody is left to tell
        return True

    def _say(self, change: Change) -> None:
        if change.who == self.own and change.new.stage == Stage.LEGACY.value:
            return  # said when it counted, before any database was asked
        log.info(
            "%s %s: %s -> %s, by %s: %s%s",
            change.kind,
            change.name,
            change.old,
            change.new,
            change.who,
            "forced: " if change.forced else "",
            change.why or "no reason given",
        )

    def _write_one(self) -> bool:
        if not self._offers:
            return True
        job = self._offers[0]
        try:
            with self._opened() as (store, _):
                job(store)
        except StateError as error:
            self._failed(error)
            return False
        except Exception:
            # Not the database's fault: trying it again would fail for ever.
            log.exception("A write to the state failed and is given up.")
            self._lost += 1
        else:
            self._recovered()
        self._offers.popleft()
        return True

    def _drain(self) -> None:
        while self._calls:
            _, future = self._calls.popleft()
            assert self._loop is not None
            _tell(self._loop, future, None, StateError("The state is closed: the server is stopping."))
        while self._offers:
            if not self._write_one():
                return

    def _failed(self, error: Exception) -> None:
        if self._problem is None:
            log.error("%s Traffic goes on at the last known stages; writes wait.", error)
        self._problem = str(error)

    def _recovered(self) -> None:
        if self._problem is not None:
            log.warning(
                "The state database is back. %d writes were lost, %d waited.",
                self._lost - self._said,
                len(self._offers),
            )
            self._said = self._lost
        self._problem = None


def _since(store: Store, told: int) -> tuple[int, list[Change]]:
    """
    The changes of stages past the counter C{told}, newest first, and the counter that they lead to; a crowd of
    them isn't told whole.  What follows a first look is told, and not what was before it.
    """
    return (told, []) if told < 0 else store.changes(told, _TOLD)


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], store: Store) -> Any:
    return function(store, *args, **kwargs)


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # A closed loop raises: nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
