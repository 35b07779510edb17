"""
Owns the copy of an SQLite database: made while the original is in use, and watched
by triggers that write down every change of a row.

Refuses: to write to the original, which is opened read-only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import attrs

from bridge.dispatch.sandbox.copies import Copy, Names
from bridge.parity.observe import Effect

_LOG = "_bgserver_changes"
# Columns that alone tell a row from the others.
_UNIQUE = """
    SELECT max(c.name) FROM pragma_index_list(?) AS i, pragma_index_info(i.name) AS c
    WHERE i."unique" AND NOT i.partial GROUP BY i.name
    HAVING count(*) = 1 AND max(c.name) IS NOT NULL ORDER BY i.seq DESC
"""


@attrs.define(eq=False)
class SQLiteCopy:
    """
    One database file and its copy.
    """

    original: Path
    copy: Path
    cheap: bool = attrs.field(default=True, init=False)
    _seen: int = 0
    _keys: dict[str, list[str]] = attrs.field(factory=dict)
    _names: dict[str, list[str]] = attrs.field(factory=dict)

    def seed(self, like: Copy | None) -> None:
        """
        Copy the database, and set the triggers.
        """
        source = like.copy if isinstance(like, SQLiteCopy) else self.original
        self.copy.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self.copy}{suffix}").unlink(missing_ok=True)
        with closing(sqlite3.connect(self.copy)) as made:
            if source.exists():
                with closing(_reading(source)) as there:
                    there.backup(made)
            made.execute(f"DROP TABLE IF EXISTS {_LOG}")
            made.execute(f"CREATE TABLE {_LOG} (seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, op TEXT, row TEXT)")
            self._watch(made)
            made.commit()
        self._seen = 0

    def _watch(self, made: sqlite3.Connection) -> None:
        self._keys.clear()
        self._names.clear()
        # A virtual table can't have triggers, and its shadow tables are nobody's rows.
        names = [
            name
            for name, kind in made.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main'")
            if kind == "table" and name != _LOG and not name.startswith("sqlite_")
        ]
        for name in names:
            columns = list(made.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)))
            primary = [c for c, pk in sorted(columns, key=lambda row: row[1]) if pk]
            unique = [c for (c,) in made.execute(_UNIQUE, (name,))]
            self._names[name] = list(dict.fromkeys([*primary, *unique] if len(primary) == 1 else unique))
            # A number that counts rows says less than the name that others use.
            self._keys[name] = unique[:1] if unique and "id" in unique[0] else primary
            for op, row in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
                fields = ", ".join(f"{_text(c)}, {_value(row, c)}" for c, _ in columns)
                made.execute(f"DROP TRIGGER IF EXISTS {_quoted(f'_bgserver_{op}_{name}')}")
                made.execute(
                    f"CREATE TRIGGER {_quoted(f'_bgserver_{op}_{name}')} AFTER {op} ON {_quoted(name)} BEGIN "
                    f"INSERT INTO {_LOG} (name, op, row) VALUES ({_text(name)}, '{op}', json_object({fields})); END"
                )

    def changes(self, names: Names = dict) -> list[Effect]:
        """
        The rows that were written since, each as the write left it.
        """
        with closing(sqlite3.connect(self.copy)) as made:
            rows = made.execute(
                f"SELECT seq, name, op, row FROM {_LOG} WHERE seq > ? ORDER BY seq", (self._seen,)
            ).fetchall()
        found = []
        for seq, name, op, text in rows:
            self._seen = seq
            row = json.loads(text)
            key = ",".join(str(row[column]) for column in self._keys.get(name, ()))
            found.append(Effect("row", f"{name}:{key}", {"op": op, **row}))
        return found

    def leaked(self, ids: Sequence[str]) -> str:
        """
        Whether a table of the original has one of these ids as a key.
        """
        if not self.original.exists():
            return ""
        marks = ",".join("?" * len(ids))
        with closing(_reading(self.original)) as real:
            for name, column in [(name, c) for name, columns in self._names.items() for c in columns]:
                found = real.execute(
                    f"SELECT {_quoted(column)} FROM {_quoted(name)} WHERE {_quoted(column)} IN ({marks})", list(ids)
                ).fetchone()
                if found is not None:
                    return f"{name}:{found[0]}"
        return ""

    def close(self) -> None:
        """
        Nothing stays open between two calls.
        """


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _value(row: str, column: str) -> str:
    field = f"{row}.{_quoted(column)}"
    return f"CASE typeof({field}) WHEN 'blob' THEN hex({field}) ELSE {field} END"
