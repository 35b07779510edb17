"""
Owns installing the process's signal handlers, and putting the former ones back.

Refuses: to do anything outside of the main thread, where Python allows no handlers.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import attrs
from twisted.internet._signals import SignalHandling


@attrs.define
class RestoredSignals:
    """
    Twisted's handling, with the restore that it leaves out: whoever ran the reactor gets its
    own Ctrl-C back afterwards.
    """

    _handling: SignalHandling
    _before: dict[int, Any] = attrs.field(factory=dict, init=False)

    def install(self) -> None:
        """
        Remember what is there, then install.
        """
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _owned()}
        self._handling.install()

    def uninstall(self) -> None:
        """
        Put back what was there. Harmless when nothing was installed.
        """
        self._handling.uninstall()
        before, self._before = self._before, {}
        for number, handler in before.items():
            # None: installed from C, which Python can't put back.
            if handler is not None:
                signal.signal(number, handler)


def _owned() -> list[int]:
    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
