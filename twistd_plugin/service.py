"""
Owns the life of the harness under twistd: made, bound, started, stopped, its status.

twistd calls C{makeService} before it daemonizes, C{privilegedStartService} after that
and before it gives root away, C{startService} before the reactor runs; the harness
is told of each, and starts for good once the loop runs.

Refuses: to decide anything.  L{bridge.compose} does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from bridge.errors import BridgeError
from twistd_plugin.options import Options, refuse

__all__ = ["Options", "makeService"]


class HarnessService(Service):
    """
    One composed server as a child of twistd's application.
    """

    def __init__(self, server: Any, daemon: bool, pidfile: str) -> None:
        self._server = server
        self._daemon = daemon
        self._pidfile = pidfile
        self.setName("bgserver")

    def privilegedStartService(self) -> None:
        """
        Bind every listener: a port in use ends the start before anything runs.
        """
        super().privilegedStartService()
        try:
            self._server.bind()
        except (BridgeError, CannotListenError) as error:
            if self._daemon:
                # The parent process waits for this and says it on the terminal.
                raise
            # twistd takes its file away after an exception only, not after an exit.
            if self._pidfile:
                Path(self._pidfile).unlink(missing_ok=True)
            refuse(error)

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


def makeService(options: Options) -> HarnessService:
    """
    Compose the server that the policy describes; nothing runs or listens yet.
    """
    # Imported here: the rooms may import what needs our reactor to be installed.
    from bridge.compose import compose
    from bridge.loop import install

    assert options.config is not None
    parent = getattr(options, "parent", None)
    daemon = parent is not None and not parent["nodaemon"]
    logging.captureWarnings(True)
    try:
        server = compose(options.config, install())
    except BridgeError as error:
        refuse(error)
    return HarnessService(server, daemon, "" if parent is None else parent["pidfile"])
