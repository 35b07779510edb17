"""
Owns what a connection has to know before it can choose a road: which Site is at this
address, and who decides.

Refuses: to decide. The route table does, behind L{LegacyFront.decide}.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

import attrs

from bridge.parity.observe import Watch
from bridge.routing import Asks, Decision
from bridge.web.proxies import Proxies


class Decide(Protocol):
    """
    C{RouteTable.decide}, read through its cell for each request.
    """

    def __call__(self, method: bytes, raw_path: bytes, asks: Asks) -> Decision: ...


class Watches(Protocol):
    """
    The dispatcher's rules, for what doesn't reach it.
    """

    def __call__(self, decision: Decision, scope: MutableMapping[str, Any] | None) -> Watch | None:
        """
        Who wants to see a request, whose decision says that somebody does.

        @param scope: The request as ASGI would say it; None where it has no words for it.
        """


class LegacyFront(Protocol):
    """
    What the composed ASGI application offers as its C{legacy_front} attribute, so that
    a protocol which uvicorn made by itself (attached mode) finds the hot road.

    @ivar proxies: Who is believed about who asks.
    """

    proxies: Proxies | None

    def decide(self, method: bytes, raw_path: bytes, asks: Asks) -> Decision:
        """
        The same answer that the dispatcher would give. It travels with the request as
        C{scope["extensions"]["bgserver.decision"]} where that takes the ASGI road, so
        that dice are thrown once and a swap in between changes nothing.
        """

    def watch(self, decision: Decision, scope: MutableMapping[str, Any] | None) -> Watch | None:
        """
        Who sees a request that somebody wants to see: L{Watches}.
        """

    def site_for(self, listener: object) -> Any | None:
        """
        The Site that answers for legacy on the listener of that C{sockname}; None
        where everything goes through ASGI.
        """


@attrs.frozen
class Road:
    """
    The hot road of one listener.

    @ivar site: The Site that gets what legacy answers.
    @ivar decide: None where nothing moves: the Site gets everything, as for those
        that C{--site} doesn't name.
    @ivar watch: None where nobody sees what is answered.
    @ivar proxies: Who is believed there about who asks.
    """

    site: Any
    decide: Decide | None = None
    watch: Watches | None = None
    proxies: Proxies | None = None


def road_of(app: Any, listener: object) -> Road | None:
    """
    Look for a C{legacy_front} in an ASGI application and in what it wraps.

    uvicorn's own middlewares, and most others, keep the inner one as C{.app}.
    """
    seen = 0
    while app is not None and seen < 32:
        front: LegacyFront | None = getattr(app, "legacy_front", None)
        if front is not None:
            site = front.site_for(listener)
            return None if site is None else Road(site, front.decide, front.watch, front.proxies)
        app = getattr(app, "app", None)
        seen += 1
    return None
