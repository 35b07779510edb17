"""
Owns the one door to the state database for whoever may wait for it: C{bgctl}, and
the thread that stands between it and the loop.

Refuses: to be called on an event loop's thread.  A database that is slow stops
whoever asks it.
"""

from __future__ import annotations

import attrs

from bridge.state.database import connect
from bridge.state.evidence import EvidenceRows
from bridge.state.leases import Leases
from bridge.state.servers import Servers
from bridge.state.stages import Stages


@attrs.frozen
class Store(Stages, Leases, EvidenceRows, Servers):
    """
    Stages, audit log, leases, evidence and servers of one database.  Every call blocks.
    """

    @classmethod
    def open(cls, url: str, create: bool = True, patience: float = 5.0) -> Store:
        """
        Open a state database.

        @param create: Make file and tables where they are missing.
        @param patience: Seconds that one transaction waits for others.
        @raise StateUnavailableError: If it can't be opened.
        @raise NewerStateError: If a later version made it.
        """
        database = connect(url, create, patience)
        if create:
            database.prepare()
        else:
            database.check()
        return cls(database)

    def close(self) -> None:
        """
        Let every connection go.
        """
        self.database.engine.dispose()
