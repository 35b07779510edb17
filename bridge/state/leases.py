"""
Owns leases: who holds a name, and in which epoch.

A lease never ends by a clock.  A watcher that sees C{renewals} unchanged for as
long as it is willing to wait, by its own monotonic clock, takes it over with
L{Leases.acquire}, which succeeds only if nothing changed since it looked.

Refuses: to say when a lease is too old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import sqlalchemy as sa

from bridge.state import schema
from bridge.state.database import Rows

# Built once: an idle server does hardly anything else, and building it costs more than running it.
_RENEWED = (
    sa.update(schema.leases)
    .where(
        sa.tuple_(schema.leases.c.name, schema.leases.c.holder, schema.leases.c.epoch).in_(
            sa.bindparam("held", expanding=True)
        )
    )
    .values(renewals=schema.leases.c.renewals + 1)
    .returning(schema.leases.c.name, schema.leases.c.renewals)
)


@attrs.frozen
class Lease:
    """
    One lease as it was seen.

    @ivar holder: None after a release.
    @ivar epoch: Raised with each new holder.
    @ivar renewals: Raised by its holder while it lives.
    """

    name: str
    holder: str | None
    epoch: int
    renewals: int


@attrs.frozen
class Leases(Rows):
    """
    The leases of one database.  Every call blocks.
    """

    def lease(self, name: str) -> Lease | None:
        """
        Who holds a name now; None if nobody ever did.
        """
        table = schema.leases
        with self.database.reading("be read") as connection:
            row = connection.execute(sa.select(table).where(table.c.name == name)).one_or_none()
        return None if row is None else Lease(row.name, row.holder, row.epoch, row.renewals)

    def leases(self) -> Mapping[str, Lease]:
        """
        All of them, by name.
        """
        with self.database.reading("be read") as connection:
            rows = connection.execute(sa.select(schema.leases)).all()
        return {row.name: Lease(row.name, row.holder, row.epoch, row.renewals) for row in rows}

    def acquire(self, name: str, holder: str, seen: Lease | None, floor: int = 0) -> Lease | None:
        """
        Take a lease over from what was seen.

        @param floor: An epoch that the new one must lie above, whatever the row says.
        @return: The new lease, or None if someone was faster.
        """
        table = schema.leases
        with self.database.writing(f"give the lease {name!r}") as connection:
            query: sa.Executable
            if seen is None:
                made = Lease(name, holder, floor + 1, 0)
                insert = self.database.insert(table).values(attrs.asdict(made))
                query = insert.on_conflict_do_nothing().returning(table.c.epoch)
            else:
                made = Lease(name, holder, max(seen.epoch, floor) + 1, 0)
                query = (
                    sa.update(table)
                    .where(
                        table.c.name == name,
                        table.c.holder.is_not_distinct_from(seen.holder),
                        table.c.epoch == seen.epoch,
                        table.c.renewals == seen.renewals,
                    )
                    .values(holder=holder, epoch=made.epoch, renewals=0)
                    .returning(table.c.epoch)
                )
            taken = connection.scalar(query) is not None
        return made if taken else None

    def renew(self, lease: Lease) -> Lease | None:
        """
        Show that the holder lives; None if the lease isn't its own any more.
        """
        return self.renew_all([lease])[0]

    def renew_all(self, leases: Sequence[Lease]) -> list[Lease | None]:
        """
        The same for all leases of a process, in one statement.
        """
        held = [(lease.name, lease.holder, lease.epoch) for lease in leases]
        with self.database.writing(f"renew the leases {', '.join(lease.name for lease in leases)}") as connection:
            renewed: dict[str, int] = {row.name: row.renewals for row in connection.execute(_RENEWED, {"held": held})}
        return [
            attrs.evolve(lease, renewals=renewed[lease.name]) if lease.name in renewed else None for lease in leases
        ]

    def release(self, lease: Lease) -> bool:
        """
        Give a lease up; the epoch stays.  False if it was lost before.
        """
        table = schema.leases
        with self.database.writing(f"release the lease {lease.name!r}") as connection:
            result = connection.execute(
                sa.update(table)
                .where(table.c.name == lease.name, table.c.holder == lease.holder, table.c.epoch == lease.epoch)
                .values(holder=None)
            )
        return result.rowcount == 1
