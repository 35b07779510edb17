"""
Owns the HTTP listeners: it binds before anything else starts, serves the sockets with
uvicorn's protocol and a Site for each listener, and stops in uvicorn's order.

Refuses: signals, lifespans and exit statuses.  Who puts the server together owns them.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any

import attrs
import uvicorn
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site
from uvicorn.config import Config
from uvicorn.server import ServerState

from bridge.beat import until_beat
from bridge.errors import ListenError
from bridge.web.accepting import Acceptor, accepting
from bridge.web.adopt import Adopted, AdoptedPort, Adopter, ListenCall
from bridge.web.cycle import UVICORN, uvicorn_known
from bridge.web.front import Decide, Road, Watches
from bridge.web.going_away import GoingAwayProtocol
from bridge.web.proxies import Proxies
from bridge.web.quicken import Quickened
from bridge.web.site_protocol import SiteProtocol

App = Callable[..., Awaitable[None]]
# After how many turns of the loop a new connection's first bytes have been read, if they were there.
_TURNS = 5
# How often a drain looks whether it is over, in seconds.
_LOOK = 0.02


@attrs.define(eq=False)
class Listener:
    """
    One address that is bound.

    @ivar adopted: Its socket or factory.
    @ivar road: None where everything goes through ASGI.
    @ivar acceptor: While it is served by the loop.
    """

    adopted: Adopted
    road: Road | None
    acceptor: Acceptor | None = None

    @property
    def address(self) -> str:
        """
        Where it listens, with the port that it really got.
        """
        return self.adopted.address


class _Call:
    """
    A reactor to Twisted's endpoints, which only collects what they would listen to.
    """

    def __init__(self, adopter: Adopter, kinds: Any) -> None:
        self._adopter = adopter
        self._kinds = kinds

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self._adopter(
            self._kinds("tcp", factory, port=port, backlog=backlog, interface=interface)
        )

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        return self._adopter(
            self._kinds(
                "ssl",
                factory,
                port=port,
                backlog=backlog,
                interface=interface,
                context_factory=contextFactory,
            )
        )

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Any:
        return self._adopter(
            self._kinds(
                "unix", factory, address=address, backlog=backlog, mode=mode, want_pid=wantPID
            )
        )

    def adoptStreamPort(self, fileno: int, addressFamily: int, factory: Any) -> Any:
        return self._adopter(self._kinds("adopt", factory, fd=fileno, family=addressFamily))


@attrs.frozen
class _Asked:
    kind: str
    factory: Any
    port: int = 0
    address: str = ""
    interface: str = ""
    backlog: int = 50
    context_factory: Any = None
    mode: int | None = 0o666
    want_pid: bool = False
    fd: int = -1
    family: int = 0


_REMEDIES: Mapping[int | None, str] = {
    errno.EADDRINUSE: "Stop what uses it, or choose another address.",
    errno.EADDRNOTAVAIL: "No interface of this machine has that address: `ip address` lists those that it has.",
    errno.EACCES: "This user may not take it: choose a port from 1024 on, or a folder that it may write to.",
}


def bind(endpoint: str, adopter: Adopter, site: Any) -> list[Adopted]:
    """
    Listen on a Twisted endpoint string, without accepting anything yet.

    @param site: The Site of that address, which is started with it.
    @raise ListenError: If the string or the address is no good.
    """
    calls: list[Adopted] = []
    before, adopter.on_adopt = adopter.on_adopt, calls.append
    try:
        server = serverFromString(_Call(adopter, _Asked), endpoint)
        found: list[Any] = []
        listening: Deferred[Any] = server.listen(site)
        listening.addBoth(found.append)
    except ImportError as e:
        raise ListenError(
            endpoint,
            f"{e.name or e} isn't installed",
            "TLS wants bgserver's extra `tls`: run pip install '.[tls]' in a checkout of it.",
        ) from e
    except (ValueError, KeyError, TypeError, IndexError, OSError) as e:
        raise ListenError(
            endpoint,
            f"that endpoint can't be used ({e})",
            "Write it as Twisted does, like tcp:8000:interface=127.0.0.1 or unix:/run/web.sock.",
        ) from e
    finally:
        adopter.on_adopt = before
    if found and isinstance(found[0], Failure):
        error = found[0].value
        cause = error.socketError if isinstance(error, CannotListenError) else error
        remedy = _REMEDIES.get(getattr(cause, "errno", None), "Choose another address.")
        raise ListenError(endpoint, getattr(cause, "strerror", None) or str(cause), remedy)
    if not calls:
        raise ListenError(
            endpoint, "that endpoint doesn't listen at once", "Use tcp, tcp6, unix, ssl or systemd."
        )
    return calls


def _nothing() -> Any:
    # What holds the address for an application that is all ASGI.
    return Site(Resource())


class Front:
    """
    All HTTP listeners of one server.

    Binding may happen before the loop runs; L{start} and everything after it run on
    the loop.

    @ivar adopter: Its Sites are added by L{add}; endpoint strings by L{bind}.
    @ivar listeners: What is bound.

    C{proxies} are those whom a canary that sticks to its clients believes about them; the
    ASGI application puts the same into its scopes by itself.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        adopter: Adopter | None = None,
        *,
        limit_concurrency: int | None = None,
        proxies: Proxies | None = None,
        websocket_limit: int = 16 * 1024 * 1024,
    ) -> None:
        self.adopter = Adopter(reactor) if adopter is None else adopter
        self.reactor = reactor
        self.listeners: list[Listener] = []
        self.state = ServerState()
        self._app_state: dict[str, Any] = {}
        self._proxies = proxies
        self._options: dict[str, Any] = {
            "limit_concurrency": limit_concurrency,
            "ws_max_size": websocket_limit,
        }
        self._config: Config | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._quickened = Quickened()

    # before the loop runs

    def bind(
        self, endpoint: str, site: Any | None = None, decide: Decide | None = None, watch: Watches | None = None
    ) -> list[Listener]:
        """
        Listen on an endpoint string.

        @param site: What legacy answers with there; None if all of it goes through ASGI.
        @raise ListenError: If that can't be done; nothing is half bound then.
        """
        opens, self.adopter.opens = self.adopter.opens, True
        known = len(self.adopter.adopted)
        try:
            calls = bind(endpoint, self.adopter, _nothing() if site is None else site)
        finally:
            self.adopter.opens = opens
            # These addresses are ours, not the application's: --site doesn't choose them.
            del self.adopter.adopted[known:]
        return [self.add(found, site is not None, decide, watch) for found in calls]

    def add(
        self, adopted: Adopted, hot: bool = True, decide: Decide | None = None, watch: Watches | None = None
    ) -> Listener:
        """
        Serve an adopted address: at once if the front has started.

        @param hot: Whether what legacy answers takes the hot road there.
        @param decide: None where nothing ever moves.
        @param watch: Who sees what legacy answers there, where somebody wants to.
        """
        road = Road(adopted.site, decide, watch, self._proxies) if hot else None
        listener = Listener(adopted, road)
        self.listeners.append(listener)
        if isinstance(adopted.port, AdoptedPort):
            adopted.port.on_stop = lambda: self._stopped(listener)
        if self._config is not None:
            self._host(listener)
            assert self._loop is not None
            task = self._loop.create_task(self._serve(listener))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
        return listener

    # on the loop

    async def start(self, app: App, app_state: Mapping[str, Any] | None = None) -> None:
        """
        Begin to accept, on everything that is bound.

        @param app: The composed ASGI application, whose lifespan is up.
        @param app_state: What its lifespan gave, for C{scope["state"]}.
        """
        if not uvicorn_known():
            known = " to ".join(".".join(str(n) for n in v) for v in UVICORN)
            self._log.warn(
                "uvicorn {version} isn't one that the hot road was tested with ({known}), so "
                "what legacy answers goes through ASGI, which is slower.",
                version=uvicorn.__version__,
                known=known,
            )
        config = Config(
            app,
            http=SiteProtocol,
            ws=GoingAwayProtocol,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            # These trust or tell more than a server in front of Twisted would have.
            proxy_headers=False,
            server_header=False,
            **self._options,
        )
        config.load()
        # Late listeners come from callbacks, which need not be within the loop's own.
        self._loop = asyncio.get_running_loop()
        self._app_state = dict(app_state or {})
        self._quickened.begin()
        self._tick()
        self._config = config
        for listener in self.listeners:
            self._host(listener)
        for listener in self.listeners:
            await self._serve(listener)

    def _protocol(self, listener: Listener) -> Any:
        assert self._config is not None
        return SiteProtocol(
            self._config,
            self.state,
            self._app_state,
            self._loop,
            road=listener.road,
            look=False,
        )

    def _host(self, listener: Listener) -> None:
        host = listener.adopted.host
        if host is not None:
            host.make = lambda: self._protocol(listener)

    async def _serve(self, listener: Listener) -> None:
        sock = listener.adopted.socket
        if sock is None or sock.fileno() < 0:
            return
        # The port keeps its own descriptor: it goes on telling where it listens.
        listener.acceptor = await accepting(
            asyncio.get_running_loop(), sock.dup(), lambda: self._protocol(listener)
        )

    def _tick(self) -> None:
        now = formatdate(time.time(), usegmt=True).encode("ascii")
        self.state.default_headers = [(b"date", now)]
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(until_beat(time.monotonic(), 1.0), self._tick)

    def _stopped(self, listener: Listener) -> None:
        if listener.acceptor is not None:
            acceptor, listener.acceptor = listener.acceptor, None
            acceptor.close()
            for task in acceptor.making:
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)
        if listener in self.listeners:
            self.listeners.remove(listener)

    def stop_accepting(self) -> None:
        """
        Take no further connections; those that are open go on.
        """
        for listener in list(self.listeners):
            port = listener.adopted.port
            stopping = port.stopListening()
            if isinstance(stopping, Deferred):
                stopping.addErrback(lambda failure: None)
            self._stopped(listener)

    async def drain(self, deadline: float) -> bool:
        """
        Let every open connection end: idle ones at once, the others after the answers
        that they are owed; websockets are told 1001.

        @param deadline: In seconds from now, at most.
        @return: Whether all of them ended in time.
        """
        end = time.monotonic() + deadline
        # Those that were taken last may have asked already.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for connection in list(self.state.connections):
            connection.shutdown()
        while self.state.connections or self.state.tasks:
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def close(self) -> None:
        """
        Cut what is left, and end what this front started.
        """
        self.stop_accepting()
        for connection in list(self.state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        left = [*self.state.tasks, *self._pending]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # A task that is cancelled before its first step never runs, and so takes itself out of nothing.
        self.state.tasks.difference_update(left)
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        self._quickened.end()
        self._config = None


__all__ = ["Front", "ListenCall", "Listener", "bind"]
