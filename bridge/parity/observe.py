"""
Owns what is seen of one answer: the recorder that a send or a channel feeds, and
the observation that it closes into.

Refuses: to keep a body whole.  A digest runs over all its bytes up to a limit, and
a capped prefix is kept for reading; past the limit an answer is truncated, which
is equal to nothing.  Refuses also to read a clock: every time arrives as C{at}, in
seconds of any one monotonic clock.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import attrs

Headers = Iterable[tuple[bytes, bytes]]


class Ending(enum.Enum):
    """
    How an answer came to its end.
    """

    COMPLETE = "complete"
    RAISED = "raised"  # the handler raised, before or within its answer
    SHORT = "short"  # the handler returned and had not ended its answer
    LEFT = "left"  # the client went away
    ENOUGH = "enough"  # a stream, left after its first events
    DEADLINE = "deadline"  # only shadows have one
    FLOODED = "flooded"  # only shadows are stopped at the limit

    @property
    def cut(self) -> bool:
        """
        Whether somebody else than the handler ended it.
        """
        return self in (Ending.LEFT, Ending.ENOUGH)


@attrs.frozen
class Effect:
    """
    Something that a request did besides answering.

    @ivar kind: C{row}, C{file}, C{mail}, C{task} or the application's own word.
    @ivar key: What it was done to, like C{tasks:6f…}.
    @ivar value: What was written, as JSON could say it.
    """

    kind: str
    key: str
    value: Any = None


@attrs.frozen
class Capture:
    """
    How much of an answer is looked at.

    @ivar prefix: Bytes kept for reading.
    @ivar limit: Bytes that the digest covers at most.
    @ivar events: For a stream without an end, how many events are compared; 0 for
        answers that end.
    @ivar effects: How many effects are kept at most.
    """

    prefix: int = 256 * 1024
    limit: int = 16 * 1024 * 1024
    events: int = 0
    effects: int = 1000


CAPTURE = Capture()


@attrs.frozen
class Observation:
    """
    One answer, as far as it is compared.

    @ivar status: None where the handler never began its answer.
    @ivar digest: Of the first C{limit} bytes; equal bytes in other chunks are equal.
    @ivar size: Bytes of body that were written, all of them.
    @ivar truncated: Whether there were more bytes than the digest covers.
    @ivar latency: Seconds from the request to the head of the answer, which is where
        a handler's own time lies; None where there was no answer.
    @ivar lasted: Seconds from the request to the last byte of the answer; None where
        nobody saw it.
    @ivar error: The name of the exception's class, where one ended it.
    """

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    digest: bytes
    size: int
    prefix: bytes
    truncated: bool
    ending: Ending
    latency: float | None
    effects: tuple[Effect, ...] = ()
    error: str = ""
    lasted: float | None = None

    @property
    def whole(self) -> bool:
        """
        Whether C{prefix} is all of the body.
        """
        return len(self.prefix) == self.size


class Recorder(Protocol):
    """
    Fed by an ASGI send or by a Twisted channel.
    """

    def started(self, status: int, headers: Headers, at: float) -> None:
        """
        The head of the answer was written.
        """

    def wrote(self, data: bytes) -> None:
        """
        A part of the body was written.
        """

    def effect(self, kind: str, key: str, value: Any = None) -> None:
        """
        The handler said what else it did (C{bgserver.effects}).
        """

    def closed(self, how: Ending, at: float, error: str = "") -> Observation:
        """
        It is over.  Called again, the first observation comes back.
        """


class Watch(Protocol):
    """
    Who sees one request that is answered without ASGI: told of each of these, in this order.

    @ivar clock: Gives C{at}.
    @ivar effect: Where the application tells its effects; None where nobody asks for them.
    """

    clock: Callable[[], float]
    effect: Callable[..., None] | None

    def begins(self) -> None:
        """
        It is this request's turn.
        """

    def heard(self, body: bytes) -> None:
        """
        A part of its body came.
        """

    def heard_all(self) -> None:
        """
        Its body is complete.
        """

    def hold(self) -> Callable[[], None]:
        """
        Keep the observation open past the answer, until what comes back is called.
        """

    def started(self, status: int, headers: Headers, at: float) -> None:
        """
        The head of the answer was written.
        """

    def wrote(self, data: bytes) -> None:
        """
        A part of the body was written.
        """

    def closed(self, how: Ending, at: float, error: str = "") -> None:
        """
        The answer is over.
        """


@attrs.define(eq=False)
class Recording:
    """
    The recorder that there is.

    @ivar began: When the request came.
    @ivar bodiless: Whether the request was a HEAD: what is written to its body, servers
        leave out, and so nobody gets it.
    @ivar ended: When the last byte was written; None where nobody says so.
    """

    began: float
    capture: Capture = CAPTURE
    bodiless: bool = False
    ended: float | None = None
    observation: Observation | None = None
    on_closed: Callable[[], None] | None = None
    _status: int | None = None
    _headers: tuple[tuple[bytes, bytes], ...] = ()
    _at: float = 0.0
    _size: int = 0
    _prefix: bytearray = attrs.field(factory=bytearray)
    _hash: Any = attrs.field(factory=lambda: hashlib.blake2b(digest_size=16))
    _effects: list[Effect] = attrs.field(factory=list)
    _events: int = 0

    def started(self, status: int, headers: Headers, at: float) -> None:
        """
        Keep the head; a second one (after a 1xx, say) replaces it.
        """
        self._status = status
        self._headers = tuple([(bytes(name), bytes(value)) for name, value in headers])
        self._at = at

    def wrote(self, data: bytes) -> None:
        """
        Digest a part of the body, and keep it while there is room.
        """
        if self.bodiless:
            return
        capture = self.capture
        room = capture.limit - self._size
        if room > 0:
            self._hash.update(data if len(data) <= room else data[:room])
        free = capture.prefix - len(self._prefix)
        if free > 0:
            before = len(self._prefix)
            self._prefix += data if len(data) <= free else data[:free]
            if capture.events:
                self._events += self._prefix.count(b"\n\n", max(0, before - 1))
        self._size += len(data)

    def effect(self, kind: str, key: str, value: Any = None) -> None:
        """
        Keep an effect, up to the limit.
        """
        if len(self._effects) < self.capture.effects:
            self._effects.append(Effect(str(kind), str(key), value))

    @property
    def enough(self) -> bool:
        """
        Whether a stream has shown what is compared of it.
        """
        capture = self.capture
        return bool(capture.events) and (self._events >= capture.events or len(self._prefix) >= capture.prefix)

    @property
    def flooded(self) -> bool:
        """
        Whether more was written than is ever compared.
        """
        return self._size > self.capture.limit

    def closed(self, how: Ending, at: float, error: str = "") -> Observation:
        """
        Close it into an observation, once.
        """
        if self.observation is None:
            self.observation = self._observed(how, error)
            if self.on_closed is not None:
                self.on_closed()
        return self.observation

    def so_far(self) -> Observation:
        """
        The observation, or what it would be if the answer's work ended now.
        """
        return self.observation or self._observed(Ending.COMPLETE, "")

    @property
    def held(self) -> int:
        """
        Bytes of memory that this keeps, roughly.
        """
        return len(self._prefix) + sum([len(n) + len(v) for n, v in self._headers])

    def _observed(self, how: Ending, error: str) -> Observation:
        return Observation(
            status=self._status,
            headers=self._headers,
            digest=self._hash.digest(),
            size=self._size,
            prefix=bytes(self._prefix),
            truncated=self._size > self.capture.limit,
            ending=how,
            latency=None if self._status is None else self._at - self.began,
            effects=tuple(self._effects),
            error=error,
            lasted=None if self.ended is None else self.ended - self.began,
        )
