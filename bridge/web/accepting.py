"""
Owns how connections come from a listening socket to the loop, and that none of them is
lost when it stops: a client whose connection the system has completed was accepted, as far
as it can tell, and may have sent its request already.

asyncio's own server makes a transport one turn after it accepted, and fails at that when it
was closed in between; so on that loop connections are accepted here.  uvloop's accepts and
makes at once, in C.  Both leave what waits in the system's queue to be reset, which is taken
out here before the socket is closed.

Refuses: TLS, which Twisted speaks, and to know what a connection is for.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from twisted.logger import Logger

MakeProtocol = Callable[[], asyncio.BaseProtocol]
# At most so many at once: others want the loop too.
BATCH = 100
# How long not to ask after the system refused for want of descriptors or memory, in seconds.
PAUSE = 1.0
_log = Logger()


class Acceptor(Protocol):
    """
    A socket that is being served.

    @ivar making: Connections that were taken, and have no protocol yet.
    """

    making: set[asyncio.Task[Any]]

    def close(self) -> None:
        """
        Take what waits, and nothing after it.
        """


async def accepting(loop: asyncio.AbstractEventLoop, sock: socket.socket, make: MakeProtocol) -> Acceptor:
    """
    Serve a listening socket, which is the acceptor's from now on.
    """
    if not isinstance(loop, asyncio.SelectorEventLoop):
        if sock.family == socket.AF_UNIX:
            server: asyncio.AbstractServer = await loop.create_unix_server(make, sock=sock.dup())
        else:
            server = await loop.create_server(make, sock=sock.dup())
        return _Served(loop, sock, make, server)
    return _Read(loop, sock, make)


class _Taking:
    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, make: MakeProtocol) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._make = make
        self.making: set[asyncio.Task[Any]] = set()

    def _take(self, most: int) -> None:
        for taken in _waiting(self._sock, most):
            # Whoever listened, a connection begins in a context of nobody's.
            task = self._loop.create_task(self._connect(taken), context=contextvars.Context())
            self.making.add(task)
            task.add_done_callback(self.making.discard)

    async def _connect(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, taken)
        except OSError:
            # It went away meanwhile.
            taken.close()

    def close(self) -> None:
        with suppress(OSError):
            # Who keeps connecting must not keep it open.
            self._take(BATCH * 10)
        self._sock.close()


class _Served(_Taking):
    """
    By the loop's own server.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        make: MakeProtocol,
        server: asyncio.AbstractServer,
    ) -> None:
        super().__init__(loop, sock, make)
        self._server = server

    def close(self) -> None:
        self._server.close()
        # The port is still open: this is another descriptor of the same socket.
        super().close()


class _Read(_Taking):
    """
    By reading the socket.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, make: MakeProtocol) -> None:
        super().__init__(loop, sock, make)
        self._pausing: asyncio.TimerHandle | None = None
        loop.add_reader(sock, self._ready)

    def _ready(self) -> None:
        try:
            self._take(BATCH)
        except OSError as error:
            _log.error(
                "Connections wait, because the system has no room for them: {error}. Raise the limit of open files.",
                error=error,
            )
            self._loop.remove_reader(self._sock)
            self._pausing = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._sock, self._ready)

    def close(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        self._loop.remove_reader(self._sock)
        super().close()


def _waiting(sock: socket.socket, most: int) -> Iterator[socket.socket]:
    """
    The connections in the system's queue.
    """
    for _ in range(most):
        try:
            taken, _ = sock.accept()
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionAbortedError:
            continue
        taken.setblocking(False)
        yield taken
