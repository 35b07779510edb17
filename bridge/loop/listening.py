"""
Owns the four ways to listen on a stream, and the hook that is asked first.

Refuses: to decide. Who answers the hook serves the factory, or returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.interfaces import IListeningPort


@attrs.frozen
class Listen:
    """
    One call of C{listenTCP}, C{listenSSL}, C{listenUNIX} or C{adoptStreamPort}.

    Only what the kind has is set: C{port}, C{interface} for tcp and ssl; C{address}, C{mode},
    C{want_pid} for unix (an abstract name starts with a NUL); C{fd}, C{family} for adopt.
    """

    kind: Literal["tcp", "ssl", "unix", "adopt"]
    factory: Any
    port: int = 0
    address: str | bytes = ""
    interface: str = ""
    backlog: int = 50
    context_factory: Any = None
    mode: int | None = 0o666
    want_pid: bool = False
    fd: int = -1
    family: int = 0


OnListen = Callable[[Listen], IListeningPort | None]


class ListeningReactor(AsyncioSelectorReactor):
    """
    The part of the reactor that listens.

    @ivar on_listen: Asked first; its answer is the port, None means that the reactor listens as Twisted would.
    """

    on_listen: OnListen | None = None

    def _offered(self, listen: Listen) -> IListeningPort | None:
        return None if self.on_listen is None else self.on_listen(listen)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        taken = self._offered(Listen("tcp", factory, port=port, backlog=backlog, interface=interface))
        if taken is not None:
            return taken
        return super().listenTCP(port, factory, backlog, interface)  # type: ignore[no-untyped-call]

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        listen = Listen("ssl", factory, port=port, backlog=backlog, interface=interface, context_factory=contextFactory)
        taken = self._offered(listen)
        if taken is not None:
            return taken
        # Twisted's listenSSL goes through listenTCP with a wrapped factory: asked once is enough.
        hook, self.on_listen = self.on_listen, None
        try:
            return super().listenSSL(port, factory, contextFactory, backlog, interface)  # type: ignore[no-untyped-call]
        finally:
            self.on_listen = hook

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int | None = 0o666, wantPID: Any = 0
    ) -> Any:
        listen = Listen("unix", factory, address=address, backlog=backlog, mode=mode, want_pid=bool(wantPID))
        taken = self._offered(listen)
        if taken is not None:
            return taken
        return super().listenUNIX(address, factory, backlog, mode, wantPID)  # type: ignore[no-untyped-call]

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:
        taken = self._offered(Listen("adopt", factory, fd=fileDescriptor, family=addressFamily))
        if taken is not None:
            return taken
        return super().adoptStreamPort(fileDescriptor, addressFamily, factory)  # type: ignore[no-untyped-call]
