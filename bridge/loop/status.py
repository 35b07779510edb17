"""
Owns carrying an exit status out through twistd.

twistd swallows C{SystemExit} while the reactor runs, and has one way only to leave with
anything but 0: it kills itself with the signal number that the reactor recorded, after the
pid file is removed and the log is closed. That is the right moment, and the number may be
anything with C{__int__}.

Refuses: to leave before twistd has cleaned up.
"""

from __future__ import annotations

import logging
import os
import sys

import attrs


@attrs.frozen
class ExitStatus:
    """
    Stands where twistd expects a signal number; when it is used, the process exits instead.

    @ivar at_once: Don't wait for threads.
    """

    status: int
    at_once: bool = False

    def __int__(self) -> int:
        if self.at_once:
            # A thread that never ends would be joined for ever. Everything has been stopped by now.
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(self.status)
        raise SystemExit(self.status)
