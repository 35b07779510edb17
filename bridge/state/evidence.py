"""
Owns what was compared: counters for ever, a few bodies for each fingerprint of a
difference, proposed rules, and the snapshots that rulings stand on.

All texts come redacted; all times are wall-clock seconds of the caller.
C{identity} is an opaque text for the code and rules that the evidence belongs to:
rows of an old one stay as history.

Refuses: to compare or to judge anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import sqlalchemy as sa

from bridge.state import schema
from bridge.state.database import Rows

RULE = "rule"
"""
What the audit log calls an answer to a proposed rule; its name is the route's.
"""
_ENDED = " until "
# Between an identity and the audit row that ended its evidence.
SAMPLES_CAP = 64 * 1024 * 1024
SAMPLE_CAP = 64 * 1024


@attrs.frozen
class Counted:
    """
    All counters of one identity of a route.
    """

    identity: str
    counts: Mapping[str, int]
    first_at: float
    last_at: float


@attrs.frozen
class Fingerprint:
    """
    One way in which the sides differed, and how often.
    """

    route: str
    identity: str
    fingerprint: str
    kind: str
    path: str
    count: int
    first_at: float
    last_at: float


@attrs.frozen
class Sample:
    """
    One request whose answers differed so, as JSON.
    """

    id: int
    route: str
    identity: str
    fingerprint: str
    at: float
    text: str


@attrs.frozen
class Proposal:
    """
    A rule that A/A runs suggest; nobody is bound by it before somebody accepts it.

    @ivar status: "proposed", "accepted" or "refused".
    """

    route: str
    rule: str
    owner: str
    expires: float
    share: float
    pairs: int
    status: str


@attrs.frozen
class Evidence:
    """
    A snapshot of the counters at a ruling.
    """

    id: int
    route: str
    identity: str
    at: float
    text: str


@attrs.frozen
class EvidenceRows(Rows):
    """
    The evidence of one database.  Every call blocks.
    """

    def add_counts(self, route: str, identity: str, deltas: Mapping[str, int], at: float) -> None:
        """
        Raise counters; several processes may.
        """
        if not deltas:
            return
        table = schema.counts
        rows = [
            {"route": route, "identity": identity, "name": name, "value": value, "first_at": at, "last_at": at}
            for name, value in sorted(deltas.items())
        ]
        insert = self.database.insert(table)
        upsert = insert.on_conflict_do_update(
            index_elements=[table.c.route, table.c.identity, table.c.name],
            set_={
                "value": table.c.value + insert.excluded.value,
                "last_at": sa.case(
                    (table.c.last_at > insert.excluded.last_at, table.c.last_at),
                    else_=insert.excluded.last_at,
                ),
            },
        )
        with self.database.writing("count evidence") as connection:
            connection.execute(upsert, rows)

    def counts(self, route: str, identity: str) -> Mapping[str, int]:
        """
        All counters of one identity.
        """
        table = schema.counts
        mine = sa.and_(table.c.route == route, table.c.identity == identity, table.c.value != 0)
        query = sa.select(table.c.name, table.c.value).where(mine)
        with self.database.reading("be read") as connection:
            return {name: int(value) for name, value in connection.execute(query)}

    def first_at(self, route: str, identity: str) -> float | None:
        """
        When the first of that evidence was counted.
        """
        table = schema.counts
        query = sa.select(sa.func.min(table.c.first_at)).where(table.c.route == route, table.c.identity == identity)
        with self.database.reading("be read") as connection:
            found: float | None = connection.scalar(query)
        return found

    def identity(self, route: str) -> str | None:
        """
        The identity that evidence was counted for last; None if there is none.
        """
        table = schema.counts
        mine = sa.and_(table.c.route == route, ~table.c.identity.contains(_ENDED))
        query = sa.select(table.c.identity).where(mine).order_by(table.c.last_at.desc()).limit(1)
        with self.database.reading("be read") as connection:
            found: str | None = connection.scalar(query)
        return found

    def counted(self, route: str | None = None) -> Mapping[str, list[Counted]]:
        """
        The counters of all routes, or of one, by route; of each the identity that was
        counted last comes first.  A counter of 0 only says which code runs.
        """
        table = schema.counts
        query = sa.select(table).where(~table.c.identity.contains(_ENDED))
        if route is not None:
            query = query.where(table.c.route == route)
        with self.database.reading("be read") as connection:
            rows = connection.execute(query).all()
        kept: dict[tuple[str, str], list[sa.Row[Any]]] = {}
        for row in rows:
            kept.setdefault((row.route, row.identity), []).append(row)
        made: dict[str, list[Counted]] = {}
        for (name, identity), found in kept.items():
            counts = {row.name: int(row.value) for row in found if row.value}
            first, last = min(row.first_at for row in found), max(row.last_at for row in found)
            made.setdefault(name, []).append(Counted(identity, counts, first, last))
        for each in made.values():
            each.sort(key=lambda counted: counted.last_at, reverse=True)
        return made

    def add_fingerprints(self, route: str, identity: str, rows: Iterable[tuple[str, str, str, int]], at: float) -> None:
        """
        Raise the counters of differences: (fingerprint, kind, path, delta).
        """
        values = [
            {
                "route": route,
                "identity": identity,
                "fingerprint": fingerprint,
                "kind": kind,
                "path": path,
                "count": delta,
                "first_at": at,
                "last_at": at,
            }
            for fingerprint, kind, path, delta in rows
        ]
        if not values:
            return
        table = schema.fingerprints
        insert = self.database.insert(table)
        upsert = insert.on_conflict_do_update(
            index_elements=[table.c.route, table.c.identity, table.c.fingerprint],
            set_={"count": table.c.count + insert.excluded.count, "last_at": insert.excluded.last_at},
        )
        with self.database.writing("count differences") as connection:
            connection.execute(upsert, values)

    def fingerprints(self, route: str, identity: str | None = None) -> list[Fingerprint]:
        """
        The differences of a route, the most frequent first.
        """
        table = schema.fingerprints
        query = sa.select(table).where(table.c.route == route)
        if identity is not None:
            query = query.where(table.c.identity == identity)
        query = query.order_by(table.c.count.desc(), table.c.fingerprint)
        with self.database.reading("be read") as connection:
            return [Fingerprint(*row) for row in connection.execute(query)]

    def add_sample(
        self, route: str, identity: str, fingerprint: str, text: str, at: float, cap: int = SAMPLES_CAP
    ) -> bool:
        """
        Keep a request that shows a difference: the first of a fingerprint and its
        newest two, all of them within C{cap} bytes.

        @return: False if it is longer than one sample may be, and wasn't kept.
        """
        size = len(text.encode("utf-8"))
        if size > SAMPLE_CAP:
            return False
        table = schema.samples
        alike = sa.and_(table.c.route == route, table.c.identity == identity, table.c.fingerprint == fingerprint)
        with self.database.writing("keep a sample") as connection:
            connection.execute(
                sa.insert(table).values(
                    route=route, identity=identity, fingerprint=fingerprint, at=at, size=size, text=text
                )
            )
            ids = list(connection.scalars(sa.select(table.c.id).where(alike).order_by(table.c.id)))
            if len(ids) > 3:
                connection.execute(sa.delete(table).where(table.c.id.in_(ids[1:-2])))
            _within(connection, cap)
        return True

    def samples(self, route: str, fingerprint: str | None = None, limit: int = 10) -> list[Sample]:
        """
        What was kept for a route, newest first.
        """
        table = schema.samples
        columns = (table.c.id, table.c.route, table.c.identity, table.c.fingerprint, table.c.at, table.c.text)
        query = sa.select(*columns).where(table.c.route == route).order_by(table.c.id.desc()).limit(limit)
        if fingerprint is not None:
            query = query.where(table.c.fingerprint == fingerprint)
        with self.database.reading("be read") as connection:
            return [Sample(*row) for row in connection.execute(query)]

    def propose(self, route: str, rule: str, owner: str, expires: float, share: float, pairs: int) -> None:
        """
        Propose a rule, or bring the figures of a proposed one up to date; what
        somebody accepted or refused stays as it is.
        """
        table = schema.proposals
        figures = {"owner": owner, "expires": expires, "share": share, "pairs": pairs}
        insert = self.database.insert(table).values(route=route, rule=rule, status="proposed", **figures)
        upsert = insert.on_conflict_do_update(
            index_elements=[table.c.route, table.c.rule], set_=figures, where=table.c.status == "proposed"
        )
        with self.database.writing("propose a rule") as connection:
            connection.execute(upsert)

    def proposals(self, route: str) -> list[Proposal]:
        """
        The rules that were ever proposed for a route.
        """
        table = schema.proposals
        query = sa.select(table).where(table.c.route == route).order_by(table.c.rule)
        with self.database.reading("be read") as connection:
            return [Proposal(*row) for row in connection.execute(query)]

    def answer_proposal(self, route: str, rule: str, status: str, owner: str, at: float | None = None) -> bool:
        """
        Accept or refuse a proposed rule, and log it, in one transaction; False if
        there is none.

        @param status: "accepted" or "refused".
        @param owner: Who says so, and owns the rule from now on.
        """
        table = schema.proposals
        mine = sa.and_(table.c.route == route, table.c.rule == rule)
        with self.database.writing("answer a proposal") as connection:
            old = connection.scalar(sa.select(table.c.status).where(mine).with_for_update())
            if old is None:
                return False
            connection.execute(sa.update(table).where(mine).values(status=status, owner=owner))
            connection.execute(
                sa.insert(schema.audit).values(
                    at=time.time() if at is None else at,
                    who=owner,
                    kind=RULE,
                    name=route,
                    old_stage=old,
                    old_weight=0.0,
                    new_stage=status,
                    new_weight=0.0,
                    why=f"the rule: ignore {rule}",
                    forced=False,
                )
            )
        return True

    def add_evidence(self, route: str, identity: str, text: str, at: float) -> int:
        """
        Keep what a ruling stands on; the id goes into the audit log.
        """
        with self.database.writing("keep evidence") as connection:
            result = connection.execute(
                sa.insert(schema.evidence).values(route=route, identity=identity, text=text, at=at)
            )
            key = result.inserted_primary_key
        assert key is not None
        return int(key[0])

    def evidence(self, id: int) -> Evidence | None:
        """
        What a ruling stood on.
        """
        table = schema.evidence
        with self.database.reading("be read") as connection:
            row = connection.execute(sa.select(table).where(table.c.id == id)).one_or_none()
        return None if row is None else Evidence(row.id, row.route, row.identity, row.at, row.text)


def _within(connection: sa.Connection, cap: int) -> None:
    table = schema.samples
    over = int(connection.scalar(sa.select(sa.func.sum(table.c.size))) or 0) - cap
    if over <= 0:
        return
    newest = sa.select(sa.func.max(table.c.id)).group_by(table.c.route, table.c.identity, table.c.fingerprint)
    last_ones = set(connection.scalars(newest))
    rows = connection.execute(sa.select(table.c.id, table.c.size).order_by(table.c.id)).all()
    # Oldest first, but a fingerprint's last one only after all others' extras.
    rows = [row for row in rows if row.id not in last_ones] + [row for row in rows if row.id in last_ones]
    gone = []
    for row in rows:
        if over <= 0:
            break
        gone.append(row.id)
        over -= row.size
    connection.execute(sa.delete(table).where(table.c.id.in_(gone)))


def end_evidence(connection: sa.Connection, route: str, change: int) -> None:
    """
    Have a route's evidence begin anew: what there is, of whatever code, stays as
    history under an identity that no code has.

    @param change: The id of the row of the audit log that says who wanted it.
    """
    counts, fingerprints = schema.counts, schema.fingerprints
    # In the order in which counters are raised, so that neither waits for the other.
    order = (counts.c.identity, counts.c.name)
    connection.execute(sa.select(counts.c.name).where(counts.c.route == route).order_by(*order).with_for_update())
    for table in (counts, fingerprints):
        connection.execute(
            sa.update(table)
            .where(table.c.route == route, ~table.c.identity.contains(_ENDED))
            .values(identity=table.c.identity + f"{_ENDED}{change}")
        )
