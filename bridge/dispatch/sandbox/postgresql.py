"""
Owns the copy of a PostgreSQL database: made from a template database with the same
schema and no rows, filled in one snapshot of the original while that is in use, and
watched by triggers.

The database itself can't be the template: PostgreSQL copies none that has
connections.  The role needs CREATEDB, and may set C{session_replication_role} (a
superuser, or granted from PostgreSQL 15 on).

Refuses: to write to the original, whose transaction is read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from bridge.dispatch.sandbox.copies import Copy, Names
from bridge.parity.observe import Effect

if TYPE_CHECKING:
    import psycopg

_LOG = "bgserver_changes"

_TABLES = """
    SELECT c.relname,
           array(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
           array(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
                 ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum),
           array(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
                 ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                 WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary AND i.indpred IS NULL
                 AND i.indnkeyatts = 1 AND i.indkey[0] > 0 ORDER BY a.attnum)
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> %s
    ORDER BY c.relname
"""
_FUNCTION = f"""
    CREATE OR REPLACE FUNCTION {_LOG}_of() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO {_LOG} (name, op, row)
        VALUES (TG_TABLE_NAME, lower(TG_OP), to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END));
        RETURN NULL;
    END $$
"""


@attrs.define(eq=False)
class PostgreSQLCopy:
    """
    One database and its copy, on one server or on two.

    @ivar original: Its URL; C{copy} the copy's, which is dropped and made anew.
    @ivar template: The name of the template, on the copy's server.
    """

    original: str = attrs.field(repr=False)
    copy: str = attrs.field(repr=False)
    template: str
    cheap: bool = attrs.field(default=True, init=False)
    _seen: int = 0
    _keys: dict[str, list[str]] = attrs.field(factory=dict)
    _names: dict[str, list[str]] = attrs.field(factory=dict)

    def seed(self, like: Copy | None) -> None:
        """
        Make the copy, fill it, and set the triggers.
        """
        from psycopg import IsolationLevel, conninfo, sql

        source = like.copy if isinstance(like, PostgreSQLCopy) else self.original
        name = str(conninfo.conninfo_to_dict(self.copy)["dbname"])
        with _connect(self.copy, dbname="postgres", autocommit=True) as server:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            server.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(self.template))
            )
        with _connect(source) as there, _connect(self.copy) as made:
            there.isolation_level = IsolationLevel.REPEATABLE_READ
            there.read_only = True
            # Rows come in any order, and the triggers' work came with them.
            made.execute("SET session_replication_role = replica")
            self._fill(there, made)
            made.execute("SET session_replication_role = DEFAULT")
            self._watch(made)
            made.commit()
        self._seen = 0

    def _fill(self, there: psycopg.Connection[Any], made: psycopg.Connection[Any]) -> None:
        from psycopg import sql

        ours = {name: columns for name, columns, _, _ in made.execute(_TABLES, (_LOG,))}
        for name, columns, _, _ in there.execute(_TABLES, (_LOG,)).fetchall():
            shared = [column for column in columns if column in ours.get(name, ())]
            if not shared:
                continue
            table = sql.Identifier(name)
            fields = sql.SQL(", ").join(map(sql.Identifier, shared))
            made.execute(sql.SQL("DELETE FROM {}").format(table))
            with (
                there.cursor().copy(sql.SQL("COPY {} ({}) TO STDOUT").format(table, fields)) as rows,
                made.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, fields)) as into,
            ):
                for data in rows:
                    into.write(data)
        sequences = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"
        known = {name for name, _ in made.execute(sequences)}
        for name, value in there.execute(sequences).fetchall():
            if value is not None and name in known:
                made.execute("SELECT setval(quote_ident(%s)::regclass, %s)", (name, value))

    def _watch(self, made: psycopg.Connection[Any]) -> None:
        from psycopg import sql

        log = sql.Identifier(_LOG)
        made.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(log))
        made.execute(sql.SQL("CREATE TABLE {} (seq bigserial PRIMARY KEY, name text, op text, row jsonb)").format(log))
        made.execute(_FUNCTION)
        self._keys.clear()
        self._names.clear()
        for name, _, primary, unique in made.execute(_TABLES, (_LOG,)).fetchall():
            self._names[name] = [*primary, *unique] if len(primary) == 1 else list(unique)
            # A number that counts rows says less than the name that others use.
            self._keys[name] = unique[:1] if unique and "id" in unique[0] else list(primary)
            table = sql.Identifier(name)
            made.execute(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(log, table))
            made.execute(
                sql.SQL(
                    "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}()"
                ).format(log, table, sql.Identifier(f"{_LOG}_of"))
            )

    def changes(self, names: Names = dict) -> list[Effect]:
        """
        The rows that were written since, each as the write left it.
        """
        from psycopg import sql

        with _connect(self.copy) as made:
            rows = made.execute(
                sql.SQL("SELECT seq, name, op, row FROM {} WHERE seq > %s ORDER BY seq").format(sql.Identifier(_LOG)),
                (self._seen,),
            ).fetchall()
        found = []
        for seq, name, op, row in rows:
            self._seen = seq
            key = ",".join(str(row[column]) for column in self._keys.get(name, ()))
            found.append(Effect("row", f"{name}:{key}", {"op": op, **row}))
        return found

    def leaked(self, ids: Sequence[str]) -> str:
        """
        Whether a table of the original has one of these ids as its key.
        """
        from psycopg import sql

        with _connect(self.original) as real:
            real.read_only = True
            for name, column in [(name, c) for name, columns in self._names.items() for c in columns]:
                found = real.execute(
                    sql.SQL("SELECT {0}::text FROM {1} WHERE {0}::text = ANY (%s)").format(
                        sql.Identifier(column), sql.Identifier(name)
                    ),
                    (list(ids),),
                ).fetchone()
                if found is not None:
                    return f"{name}:{found[0]}"
        return ""

    def close(self) -> None:
        """
        Nothing stays open between two calls.
        """


def _connect(url: str, **more: Any) -> psycopg.Connection[Any]:
    try:
        import psycopg
    except ImportError:
        from bridge.dispatch.sandbox.copies import SandboxError

        raise SandboxError("postgresql", "psycopg is not installed. Install the extra `postgres`.") from None
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), **more)
