"""
Owns the order of answers on one connection, whoever gives each of them, and what
follows from it: when to read on, when to wait for the peer, when to close.

It is uvicorn's httptools protocol, whose line of pipelined requests takes requests of
two kinds here: its own, and those that start by L{OrderedProtocol.start_legacy}.

Refuses: to parse, and to know what a Site is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from twisted.logger import Logger
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.web.cycle import LegacyCycle
from bridge.web.patience import ABORT, Patience

# What Twisted reads ahead while a request is being answered.
EAGER = 0x4000


class OrderedProtocol(HttpToolsProtocol):
    """
    Answers in the order of the requests.

    @ivar current: The request that is being answered; None before the first.
    @ivar held: What came behind a request that may take the connection over, or behind
        one that can't be understood; None while everything is parsed at once.
    @ivar deaf: Whether what still comes is of no interest.
    """

    _log = Logger()
    cycle: Any
    pipeline: deque[Any]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.current: Any = None
        self.held: list[bytes] | None = None
        self.deaf = False
        self._patience: Patience | None = None
        self._proceeding = False
        self._eager = 0

    # what a subclass says

    def start_legacy(self, cycle: LegacyCycle) -> None:
        """
        It is this request's turn.
        """
        raise AssertionError("only a Site's protocol has such requests")

    def feed(self, data: bytes) -> None:
        """
        Parse this.
        """
        raise AssertionError("only a Site's protocol holds data back")

    def patience(self) -> float | None:
        """
        For how many seconds the peer may be silent; None for ever.
        """
        return self.timeout_keep_alive

    def last_patience(self) -> float | None:
        """
        For how many seconds more it may take what is left for it; None for ever.
        """
        return ABORT

    # the transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = Patience(self.loop, transport, self.patience, self._waiting, self.last_patience)

    def heard(self, size: int) -> None:
        """
        So many bytes came: the peer is there, and may have to be slowed down.
        """
        if self._patience is not None:
            self._patience.heard = self.loop.time()
        current = self.current
        if current is not None and not current.response_complete and not current.more_body:
            # Twisted reads a little ahead, so that it hears of a disconnect.
            self._eager += size
            if self._eager > EAGER:
                self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        super().connection_lost(exc)
        current, self.current = self.current, None
        # uvicorn tells only the request that was parsed last.
        if current is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        self.pipeline.clear()
        self.held = None

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if not self.busy():
            self.proceed()

    def leave(self) -> None:
        """
        The connection is gone, or somebody else's.
        """
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def handle_websocket_upgrade(self) -> None:
        self.leave()
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        """
        Take no further requests: close at once, or after the answers that are owed.
        """
        if self.busy() or self.pipeline:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _waiting(self) -> bool:
        if self.flow.read_paused:
            return False
        return not self.busy() or bool(self.current.more_body)

    # the line

    def busy(self) -> bool:
        """
        Whether a request is being answered.
        """
        return self.current is not None and not self.current.response_complete

    def waits(self) -> bool:
        """
        Whether a request that comes now isn't the next to be answered.
        """
        current = self.current
        if current is not None and not current.response_complete:
            return True
        return bool(self.pipeline) or self.flow.write_paused

    def queue(self, cycle: LegacyCycle) -> None:
        """
        Put a request at the end of the line.
        """
        self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, LegacyCycle):
            self.current = cycle
            self.start_legacy(cycle)
        else:
            self.start_asgi(cycle, app)

    def start_asgi(self, cycle: Any, app: Any) -> None:
        """
        It is this request's turn, and the application answers it.
        """
        self.current = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """
        The ASGI road is done with the current request.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline or self.held or self.flow.write_paused:
            self.proceed()
        else:
            self._rest()

    def completed(self) -> None:
        """
        The current request is answered, and the connection goes on.
        """
        self.server_state.total_requests += 1
        if self.pipeline or self.held or self.flow.write_paused:
            self.proceed()
        else:
            self._rest()

    def proceed(self) -> None:
        """
        Start what waits in the line; a loop, because the line may be long.
        """
        if self._proceeding:
            return
        self._proceeding = True
        try:
            while self.pipeline and not self.flow.write_paused and not self.transport.is_closing():
                cycle, app = self.pipeline.pop()
                self._start_asgi_task(cycle, app)
                if not cycle.response_complete:
                    break
        finally:
            self._proceeding = False
        if self.flow.write_paused and not self.busy():
            # Who doesn't read answers sends no more questions.
            self.flow.pause_reading()
        elif not self.pipeline:
            self._rest()

    def _rest(self) -> None:
        self._eager = 0
        if self._patience is not None:
            self._patience.heard = self.loop.time()
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.held and not self.busy():
            held, self.held = self.held, None
            self.feed(b"".join(held))
