"""
Owns telling systemd how we are: C{READY=1}, C{STOPPING=1}, C{WATCHDOG=1}.

The watchdog is fed by a timer of the loop, so that a loop that hangs isn't fed.

Refuses: to fail a server because its supervisor doesn't listen.
"""

from __future__ import annotations

import os
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Mapping
from contextvars import Context

import attrs
from twisted.logger import Logger

_log = Logger()


@attrs.define
class Notifier:
    """
    The line to systemd. Runs on the loop's thread.

    @ivar watchdog: Seconds in which systemd wants to hear from us; 0 where it doesn't.
    """

    _address: str
    watchdog: float = 0.0
    _timer: TimerHandle | None = attrs.field(default=None, init=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier | None:
        """
        The notifier that the environment asks for, if it does.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        watchdog = 0.0
        # The variable is inherited by children that systemd doesn't watch.
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            usec = environment.get("WATCHDOG_USEC", "")
            watchdog = int(usec) / 1e6 if usec.isdigit() else 0.0
        return cls(address, watchdog)

    def ready(self, loop: AbstractEventLoop) -> None:
        """
        Everything is up. Feeds the watchdog from now on, twice in its time.
        """
        self.tell("READY=1")
        if self.watchdog:
            self._feed(loop)

    def _feed(self, loop: AbstractEventLoop) -> None:
        self.tell("WATCHDOG=1")
        self._timer = loop.call_later(self.watchdog / 2, self._feed, loop, context=Context())

    def stopping(self) -> None:
        """
        The stop has begun. The watchdog is fed until L{close}: stopping takes its time too.
        """
        self.tell("STOPPING=1")

    def close(self) -> None:
        """
        Stop feeding.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tell(self, message: str) -> None:
        """
        Send one message. Never blocks; what can't be sent is logged.
        """
        # A leading @ stands for the NUL of an abstract name.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto(message.encode(), address)
        except OSError as exc:
            _log.warn("systemd can't be told {message}: {exc}", message=message, exc=exc)
