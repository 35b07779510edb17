"""
Owns what a Twisted Request carries while somebody observes it: where to tell effects,
whether it is a shadow, and how to say that its work isn't over at C{finish()}.

An application finds these as attributes, so that it imports nothing of the harness; on a
request that nobody observes they are absent.

- C{request.bgserverEffects(kind, key, value)} tells of one effect.
- C{request.bgserverHold()} keeps the observation open, and gives a callable that ends it.
- C{request.bgserverShadow} is there on a shadow.

Refuses: to bound a hold; who observes has a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from bridge.web.sessions import SHADOW

# Under this name a scope says where effects are to be told.
EFFECTS = "bgserver.effects"


class Holds:
    """
    The holds of one request, taken and released on the loop's thread.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._none = asyncio.Event()
        self._none.set()

    def take(self) -> Callable[[], None]:
        """
        @return: What releases it; a second call does nothing.
        """
        self._taken += 1
        self._none.clear()
        released = False

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._taken -= 1
                if not self._taken:
                    self._none.set()

        return release

    async def released(self) -> None:
        """
        Wait until none is left.
        """
        await self._none.wait()


def observed(request: Any, extensions: Mapping[str, Any]) -> Holds | None:
    """
    Give a request these attributes, if its scope says that somebody observes it.
    """
    if SHADOW in extensions:
        request.bgserverShadow = extensions[SHADOW]
    if EFFECTS not in extensions:
        return None
    holds = Holds()
    request.bgserverEffects = extensions[EFFECTS]
    request.bgserverHold = holds.take
    return holds
