"""
Owns the life of the harness under twistd: made, bound, started, stopped, its status.

twistd calls C{makeService} before it daemonizes, C{privilegedStartService} after that
and before it gives root away, C{startService} before the reactor runs; the harness
is told of each, and starts for good once the loop runs.

Refuses: to decide anything.  L{bridge.compose} does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from bridge.errors import BridgeError, ListenError
from twistd_plugin.options import Options, refuse

__all__ = ["Options", "makeService"]

_log = Logger()
# The parent reads a hundred bytes, of which two are the status.
_ROOM = 98


class HarnessService(Service):
    """
    One composed server as a child of twistd's application.
    """

    def __init__(self, server: Any, parent: Mapping[str, Any]) -> None:
        self._server = server
        self._parent = parent
        self.setName("bgserver")

    def privilegedStartService(self) -> None:
        """
        Bind every listener: a port in use ends the start before anything runs.
        """
        super().privilegedStartService()
        try:
            self._server.bind()
        except (BridgeError, CannotListenError) as error:
            # twistd takes its file away after an exception only, not after an exit.
            if self._parent.get("pidfile"):
                Path(self._parent["pidfile"]).unlink(missing_ok=True)
            pipe = self._parent.get("statusPipe")
            if pipe is None:
                refuse(error)
            # A daemon has no terminal.  An exception would leave a traceback in its log, and
            # its name, cut, on the terminal: so the parent, which waits there, is told in words.
            _log.error("{error}", error=error)
            os.write(pipe, b"1 " + short(error))
            os.close(pipe)
            raise SystemExit(1) from None

    def startService(self) -> None:
        """
        Have the server start with the reactor.
        """
        super().startService()
        self._server.run_with_reactor()

    def stopService(self) -> Deferred[None] | None:
        """
        Stop in order, within the grace.
        """
        super().stopService()
        stopped: Deferred[None] | None = self._server.stop()
        return stopped


def short(error: Exception) -> bytes:
    """
    What twistd's parent process has room for: the cause first, then as much of the address as fits.
    """
    if isinstance(error, ListenError):
        text = f"{error.problem}: {error.address}"
    elif isinstance(error, CannotListenError):
        cause = getattr(error.socketError, "strerror", None) or error.socketError
        text = f"{cause}: {error.interface or 'any'}:{error.port}"
    else:
        text = str(error)
    said = text.encode("ascii", "replace")
    return said if len(said) <= _ROOM else said[: _ROOM - 3] + b"..."


def makeService(options: Options) -> HarnessService:
    """
    Compose the server that the policy describes; nothing runs or listens yet.
    """
    # Imported here: the rooms may import what needs our reactor to be installed.
    from bridge.compose import compose
    from bridge.loop import install

    assert options.config is not None
    parent = getattr(options, "parent", None)
    logging.captureWarnings(True)
    try:
        server = compose(options.config, install())
    except BridgeError as error:
        refuse(error)
    # twistd puts its status pipe there when it has become a daemon.
    return HarnessService(server, {} if parent is None else parent)
