"""
Owns the facts of one attempt to listen, as the reactor's C{on_listen} hook gets them.

Refuses: to decide. Who answers the hook serves the factory, or returns None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
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
