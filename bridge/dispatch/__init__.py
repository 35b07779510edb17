"""
Carries decisions out: answers, tees, shadows, and breaks the circuit.

- L{dispatcher}: one request's way.
- L{asgi}, L{asks}, L{tape}, L{tee}: what it is made of.
- L{watch}: the same for a request that legacy answers without ASGI.
- L{shadows}, L{run}, L{circuit}: the other side, afterwards, for nobody.
- L{trial}: the facts that come out of it.
"""

from bridge.dispatch.dispatcher import Dispatcher
from bridge.dispatch.run import in_shadow
from bridge.dispatch.shadows import Judge, Limits, ShadowQueue
from bridge.dispatch.trial import Dropped, Request, Trial

__all__ = [
    "Dispatcher",
    "Dropped",
    "Judge",
    "Limits",
    "Request",
    "ShadowQueue",
    "Trial",
    "in_shadow",
]
