"""
What must outlive the process: stages, audit log, evidence, leases.

- L{schema}: the tables and their version.
- L{database}: engine, transactions, errors; SQLite by default, PostgreSQL for many hosts. L{sqlite_file}: how a file of
  SQLite is opened. L{holders}: who has it locked.
- L{stages}: where routes and loops stand, and how they came there.
- L{leases}: who holds a name, in which epoch.
- L{servers}: who runs on it, and where legacy answers everything.
- L{evidence}: what was compared.
- L{key}: the file beside it with the key of the secrets' tokens.
- L{store}: all of it, for whoever may wait.
- L{thread}: the same for an event loop, which may not.
- L{desk}: what an operator may ask of it under a policy; L{view} is one look, L{rollback} the way back.
"""

from bridge.state.evidence import Evidence, Fingerprint, Proposal, Sample
from bridge.state.leases import Lease
from bridge.state.stages import Change, Snapshot, Standing
from bridge.state.store import Store
from bridge.state.thread import Health, StateThread

__all__ = [
    "Change",
    "Evidence",
    "Fingerprint",
    "Health",
    "Lease",
    "Proposal",
    "Sample",
    "Snapshot",
    "Standing",
    "StateThread",
    "Store",
]
