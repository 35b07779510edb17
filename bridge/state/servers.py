"""
Owns the rows in which running servers say that they are there, and whether legacy
answers everything on them, whatever the stages say.

They are for people who look at the state alone: C{bgctl}, where no admin listener
answers.  A row's moment is its server's wall clock.

Refuses: to decide anything by them.  Who may run a loop is a lease, and no clock.
"""

from __future__ import annotations

import attrs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from bridge.state import schema
from bridge.state.database import Rows

ALIVE = 20.0
"""
Seconds since its last sign of life, of which it gives one in four, in which a server is
taken to run.  Hosts' clocks differ: by this nothing is decided, only said.
"""

FORGOTTEN = 60.0
"""
Seconds after which a server that gave no sign of life is forgotten by the next one that does.
"""


def _present(insert: sqlite.Insert | postgresql.Insert) -> sqlite.Insert | postgresql.Insert:
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[schema.servers.c.name], set_={"at": new.at, "force_legacy": new.force_legacy}
    )


# Built once, as the leases' renewal.
_SILENT = sa.delete(schema.servers).where(
    schema.servers.c.at < sa.bindparam("before"), schema.servers.c.name != sa.bindparam("me")
)
_PRESENT = {each.dialect.name: _present(each.insert(schema.servers)) for each in (sqlite, postgresql)}


@attrs.frozen
class Presence:
    """
    One server, as it said last.

    @ivar name: Who it is, like in leases: host, process, and a number of this start alone.
    @ivar at: Wall-clock seconds of its last sign of life.
    @ivar force_legacy: Whether legacy answers everything there.
    """

    name: str
    at: float
    force_legacy: bool

    def alive(self, now: float) -> bool:
        """
        Whether it is taken to run.
        """
        return now - self.at <= ALIVE


@attrs.frozen
class Servers(Rows):
    """
    The servers on one database.  Every call blocks.
    """

    def servers(self) -> list[Presence]:
        """
        Who is there, or went without a word, the latest sign of life first.
        """
        table = schema.servers
        with self.database.reading("be read") as connection:
            # A state that an earlier version made has the table from a server's next start on.
            if not sa.inspect(connection).has_table(table.name):
                return []
            rows = connection.execute(sa.select(table).order_by(table.c.at.desc(), table.c.name)).all()
        return [Presence(row.name, row.at, row.force_legacy) for row in rows]

    def present(self, name: str, force_legacy: bool, at: float) -> None:
        """
        Say that a server is there.
        """
        with self.database.writing("keep that a server runs") as connection:
            connection.execute(_SILENT, {"before": at - FORGOTTEN, "me": name})
            upsert = _PRESENT[connection.dialect.name]
            connection.execute(upsert, {"name": name, "at": at, "force_legacy": force_legacy})

    def absent(self, name: str) -> None:
        """
        Say that a server has stopped.
        """
        with self.database.writing("keep that a server stopped") as connection:
            connection.execute(sa.delete(schema.servers).where(schema.servers.c.name == name))
