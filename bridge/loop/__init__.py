"""
One event loop for both stacks: the reactor on asyncio or uvloop, owned or attached.

- L{reactor}: the reactor, put together from L{timers}, L{descriptors}, L{listening} and L{children}.
- L{install}, L{loops}: making it the process's one, on which event loop.
- L{signals}, L{status}, L{teardown}: how it is told to end, how it ends, and with which exit status.
- L{awaiting}: Deferreds as awaitables, awaitables as Deferreds; L{failures} carries errors across.
- L{async_render}: a legacy page that is a coroutine.
- L{context}: whose work a callback does; L{frames} tells it from the outside.
- L{threads}, L{ledger}, L{limiter}: worker threads, and the one account of them.
- L{life}: the order of starting and stopping; with L{notify}, which tells systemd.
- L{reports}, L{stalls}: what nobody handled, and what keeps the loop; L{heap}: that the garbage collector doesn't.

Importing this installs nothing. Call L{install} before anything imports
C{twisted.internet.reactor}.
"""

from bridge.loop.awaiting import as_awaitable, as_deferred, returns_awaitable, returns_deferred, shielded
from bridge.loop.context import About, about, in_context, request_context, run_as, set_about
from bridge.loop.install import install
from bridge.loop.ledger import Share, Usage
from bridge.loop.life import Event, How, Life, Starting, Stopping
from bridge.loop.listening import Listen, OnListen
from bridge.loop.loops import make_loop
from bridge.loop.reactor import BridgeReactor
from bridge.loop.stalls import Lag, Stall, StallWatch
from bridge.loop.threads import defer_to_worker, worker_stop

__all__ = [
    "install",
    "make_loop",
    "BridgeReactor",
    "Listen",
    "OnListen",
    "as_awaitable",
    "as_deferred",
    "returns_awaitable",
    "returns_deferred",
    "shielded",
    "About",
    "about",
    "in_context",
    "request_context",
    "run_as",
    "set_about",
    "defer_to_worker",
    "worker_stop",
    "Share",
    "Usage",
    "StallWatch",
    "Stall",
    "Lag",
    "Life",
    "Starting",
    "Stopping",
    "Event",
    "How",
]
