"""
Owns the rows that say where each route and each loop stands, and the log of how it
came there.

Refuses: to judge whether a change is wise; the rules are C{routing.moves}' and the
gate's.  Here a change is only whole, logged, and not built on a stale view.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import attrs
import sqlalchemy as sa

from bridge.background.ownership import LoopStage
from bridge.errors import StaleChangeError, StateError
from bridge.routing import Stage
from bridge.state import schema
from bridge.state.database import Rows
from bridge.state.evidence import end_evidence

ROUTE = "route"
LOOP = "loop"
GATE = "gate@"
"""
How a gate's name begins in the log; all other names are people's.
"""


@attrs.frozen
class Standing:
    """
    A stage, and the percent of subjects that it moves.
    """

    stage: str
    weight: float = 0.0

    def __str__(self) -> str:
        return f"{self.stage} {self.weight:g} %" if self.weight else self.stage


@attrs.frozen
class Change:
    """
    One row of the audit log.

    @ivar at: Wall-clock seconds.
    @ivar kind: "route", "loop", or "rule" for an answer to a route's proposed rule.
    @ivar evidence: The id of the evidence that it stands on, where it stands on one.
    """

    id: int
    at: float
    who: str
    kind: str
    name: str
    old: Standing
    new: Standing
    why: str
    forced: bool
    evidence: int | None


@attrs.frozen
class Snapshot:
    """
    All stages at one moment.

    @ivar version: The change counter that they belong to.
    @ivar held: The routes that a person has taken back to legacy.
    """

    version: int
    routes: Mapping[str, tuple[Stage, float]]
    loops: Mapping[str, str]
    held: frozenset[str] = frozenset()


@attrs.frozen
class Stages(Rows):
    """
    Stages and audit log of one database.  Every call blocks.
    """

    def version(self) -> int:
        """
        The change counter; it only ever grows.
        """
        with self.database.reading("be read") as connection:
            return _version(connection)

    def snapshot(self) -> Snapshot:
        """
        All stages and the counter that they belong to.
        """
        with self.database.reading("be read") as connection:
            version = _version(connection)
            rows = connection.execute(sa.select(schema.stages)).all()
            last = sa.select(sa.func.max(schema.audit.c.id)).where(schema.audit.c.kind == ROUTE)
            held = connection.execute(
                sa.select(schema.audit.c.name).where(
                    schema.audit.c.id.in_(last.group_by(schema.audit.c.name)),
                    schema.audit.c.new_stage == Stage.LEGACY.value,
                    ~schema.audit.c.who.startswith(GATE),
                )
            ).scalars()
            names = frozenset(held)
        routes = {row.name: (self._stage(row), row.weight) for row in rows if row.kind == ROUTE}
        loops = {row.name: self._loop_stage(row) for row in rows if row.kind == LOOP}
        return Snapshot(version, routes, loops, names)

    def stages(self) -> Mapping[str, tuple[Stage, float]]:
        """
        Stage and weight of each route that was ever moved.
        """
        return self.snapshot().routes

    def loop_stages(self) -> Mapping[str, str]:
        """
        Stage of each loop that was ever moved.
        """
        return self.snapshot().loops

    def set_stage(
        self,
        route: str,
        stage: Stage,
        weight: float = 0.0,
        *,
        who: str,
        why: str,
        evidence: int | None = None,
        forced: bool = False,
        start: tuple[Stage, float] = (Stage.LEGACY, 0.0),
        expect: tuple[Stage, float] | None = None,
        at: float | None = None,
        anew: bool = False,
    ) -> Change | None:
        """
        Move a route, and log it, in one transaction.

        @param start: Where the policy starts the route, if no row says otherwise.
        @param expect: Where the caller saw it; it isn't moved from anywhere else.
        @param anew: Whether its evidence begins anew with that, also where it stands there already.
        @return: The row of the log, or None if the route stands there already.
        @raise StaleChangeError: If it stands elsewhere than expected.
        """
        return self._set(
            ROUTE,
            route,
            Standing(stage.value, weight),
            Standing(start[0].value, start[1]),
            None if expect is None else Standing(expect[0].value, expect[1]),
            who=who,
            why=why,
            evidence=evidence,
            forced=forced,
            at=at,
            anew=anew,
        )

    def set_loop_stage(
        self,
        loop: str,
        stage: str,
        *,
        who: str,
        why: str,
        start: str = "legacy",
        from_stage: str | None = None,
        forced: bool = False,
        at: float | None = None,
    ) -> Change | None:
        """
        The same for a loop; its stages are C{background.ownership}'s, by value.
        """
        return self._set(
            LOOP,
            loop,
            Standing(stage),
            Standing(start),
            None if from_stage is None else Standing(from_stage),
            who=who,
            why=why,
            evidence=None,
            forced=forced,
            at=at,
        )

    def audit(self, name: str | None = None, kind: str | None = None, limit: int = 100) -> list[Change]:
        """
        The latest changes, newest first; of one route or loop, if it is named.
        """
        query = sa.select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(schema.audit.c.name == name)
        if kind is not None:
            query = query.where(schema.audit.c.kind == kind)
        with self.database.reading("be read") as connection:
            rows = connection.execute(query).all()
        return [_change(row) for row in rows]

    def changes(self, since: int, most: int) -> tuple[int, list[Change]]:
        """
        The change counter, and the changes of stages since it had another value, newest first.

        @param most: How many at most.
        """
        counter = sa.select(schema.meta.c.value).where(schema.meta.c.name == "changes").scalar_subquery()
        query = (
            # In one statement: a counter that was read before the rows would count others than these.
            sa.select(schema.audit, counter.label("counter"))
            .where(schema.audit.c.kind.in_((ROUTE, LOOP)))
            .order_by(schema.audit.c.id.desc())
            .limit(most)
        )
        with self.database.reading("be read") as connection:
            rows = connection.execute(query).all()
        if not rows:
            return since, []
        now = int(rows[0].counter)
        return now, [_change(row) for row in rows[: max(0, now - since)]]

    def moved_at(self, route: str | None = None) -> Mapping[str, float]:
        """
        When each route, or one, was moved last.
        """
        table = schema.audit
        query = sa.select(table.c.name, sa.func.max(table.c.at)).where(table.c.kind == ROUTE).group_by(table.c.name)
        if route is not None:
            query = query.where(table.c.name == route)
        with self.database.reading("be read") as connection:
            return {name: float(at) for name, at in connection.execute(query)}

    def _set(
        self,
        kind: str,
        name: str,
        new: Standing,
        start: Standing,
        expect: Standing | None,
        *,
        who: str,
        why: str,
        evidence: int | None,
        forced: bool,
        at: float | None,
        anew: bool = False,
    ) -> Change | None:
        moment = time.time() if at is None else at
        table = schema.stages
        with self.database.writing(f"record that {name!r} moves to {new}") as connection:
            # The counter first: its row is the lock that keeps writers in a row,
            # on PostgreSQL too.
            connection.execute(
                sa.update(schema.meta).where(schema.meta.c.name == "changes").values(value=schema.meta.c.value + 1)
            )
            where = sa.and_(table.c.kind == kind, table.c.name == name)
            row = connection.execute(sa.select(table).where(where)).one_or_none()
            old = start if row is None else Standing(row.stage, row.weight)
            if expect is not None and expect != old:
                raise StaleChangeError(name, str(expect), str(old))
            if old == new and not anew:
                connection.rollback()
                return None
            upsert = self.database.insert(table).values(kind=kind, name=name, stage=new.stage, weight=new.weight)
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=[table.c.kind, table.c.name],
                    set_={"stage": new.stage, "weight": new.weight},
                )
            )
            result = connection.execute(
                sa.insert(schema.audit).values(
                    at=moment,
                    who=who,
                    kind=kind,
                    name=name,
                    old_stage=old.stage,
                    old_weight=old.weight,
                    new_stage=new.stage,
                    new_weight=new.weight,
                    why=why,
                    forced=forced,
                    evidence=evidence,
                )
            )
            key = result.inserted_primary_key
            assert key is not None
            if anew:
                end_evidence(connection, name, int(key[0]))
        return Change(key[0], moment, who, kind, name, old, new, why, forced, evidence)

    def _stage(self, row: sa.Row[Any]) -> Stage:
        try:
            return Stage(row.stage)
        except ValueError:
            raise self._no_stage(row) from None

    def _loop_stage(self, row: sa.Row[Any]) -> str:
        try:
            return LoopStage(row.stage).value
        except ValueError:
            raise self._no_stage(row) from None

    def _no_stage(self, row: sa.Row[Any]) -> StateError:
        # No command could mend it: whoever moves something reads all stages first.
        name = row.name.replace("'", "''")
        return StateError(
            f"The state database {self.database.shown} has the {row.kind} {row.name!r} at {row.stage!r}, which is no "
            "stage. Upgrade bgserver, if a later version wrote that; or have it stand where the policy starts it: "
            f"DELETE FROM bgserver_stages WHERE kind = '{row.kind}' AND name = '{name}'"
        )


def _change(row: sa.Row[Any]) -> Change:
    return Change(
        row.id,
        row.at,
        row.who,
        row.kind,
        row.name,
        Standing(row.old_stage, row.old_weight),
        Standing(row.new_stage, row.new_weight),
        row.why,
        row.forced,
        row.evidence,
    )


def _version(connection: sa.Connection) -> int:
    query = sa.select(schema.meta.c.value).where(schema.meta.c.name == "changes")
    return int(connection.scalars(query).one())
