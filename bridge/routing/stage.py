"""
Owns the words of a migration: sides, stages, effects, and what a canary sticks to.

Refuses: any rule about who may move from one stage to another; that is the gate's
and the operator's.
"""

from __future__ import annotations

import enum

import attrs


class Side(enum.Enum):
    """
    One of the two stacks.
    """

    LEGACY = "legacy"
    MODERN = "modern"

    # An enum's own hash is Python code, and each request looks one up.
    __hash__ = object.__hash__

    @property
    def other(self) -> Side:
        """
        The side that this one isn't.
        """
        return Side.MODERN if self is Side.LEGACY else Side.LEGACY


class Stage(enum.Enum):
    """
    Where one route stands, from nothing moved to legacy's code gone.
    """

    LEGACY = "legacy"
    SHADOW = "shadow"
    CANARY = "canary"
    LIVE = "live"
    MODERN = "modern"
    RETIRED = "retired"

    @property
    def step(self) -> int:
        """
        How many steps this stage lies past C{legacy}.
        """
        return _STEPS[self]

    @property
    def next(self) -> Stage | None:
        """
        One step forward, or None past the last.
        """
        step = self.step + 1
        return _ORDER[step] if step < len(_ORDER) else None


_ORDER = tuple(Stage)
_STEPS = {stage: step for step, stage in enumerate(_ORDER)}


class Effects(enum.Enum):
    """
    What a route does besides answering, as its owner declared it.
    """

    NONE = "none"
    SANDBOXED = "sandboxed"
    EXTERNAL = "external"

    @property
    def may_shadow(self) -> bool:
        """
        Whether the other side may run the same request after the answer.
        """
        return self is not Effects.EXTERNAL


class SelectorKind(enum.Enum):
    """
    The part of a request that a canary sticks to.
    """

    HEADER = "header"
    COOKIE = "cookie"
    PATH = "path"
    CLIENT = "client"
    REQUEST = "request"  # to nothing: each request draws its lot


@attrs.frozen
class Selector:
    """
    What a canary sticks to: a header, a cookie, a path parameter, the client; or, where
    that is said, to nothing.

    @ivar name: The header's (lower-case), cookie's or parameter's name; empty for
        the client's address and for single requests.
    """

    kind: SelectorKind
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Selector:
        """
        Read C{client}, C{header:NAME}, C{cookie:NAME}, C{path:NAME} or C{request}.

        @raise ValueError: If it is none of them; the message says what was wrong.
        """
        word, colon, name = text.partition(":")
        try:
            kind = SelectorKind(word)
        except ValueError:
            raise ValueError(f"{text!r} is none of client, header:NAME, cookie:NAME, path:NAME, request") from None
        if kind in (SelectorKind.CLIENT, SelectorKind.REQUEST):
            if colon:
                raise ValueError(f"{text!r}: {word} takes no name")
        elif not name:
            raise ValueError(f"{text!r} names no {word}")
        if kind is SelectorKind.HEADER:
            name = name.lower()
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value


BY_CLIENT = Selector(SelectorKind.CLIENT)
