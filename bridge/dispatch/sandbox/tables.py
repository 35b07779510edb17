"""
Owns the reading of a file that is a table, so that two runs' tables can be compared:
comma-separated values with a head, or a JSON array of flat objects.

Two runs give ids of their own, and write down when they did something. So a table is
told by its number of rows, by the way it is written, and by a digest of each column in
which ids are the real side's, or numbered as they come where it has none that is known,
and times since the copy was made are left out. A row more or less, in another place or
with another value shows in those, however large the table is; and a rule can leave one
column out.

Refuses: what isn't a table.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from bridge.parity.documents import moments_replaced
from bridge.parity.ids import ID

LONGEST = 16 * 1024 * 1024
# Two runs' clocks, and an answer that was on its way when the copy was made.
_BEFORE = datetime.timedelta(seconds=60)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_PAUSE_EACH = 200
_NOTHING = "\1"


@attrs.define
class _Columns:
    """
    The digests of columns, fed row by row.
    """

    since: datetime.datetime
    names: Mapping[str, str]
    rows: int = 0
    _digests: dict[str, Any] = attrs.field(factory=dict)
    _ids: dict[str, str] = attrs.field(factory=dict)

    def add(self, row: Iterable[tuple[str, str]]) -> None:
        cells = dict(row)
        for name in cells:
            if name not in self._digests:
                self._digests[name] = made = hashlib.blake2b(digest_size=16)
                made.update((_NOTHING + "\0").encode() * self.rows)
        for name, digest in self._digests.items():
            text = self._common(cells.get(name, _NOTHING))
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        self.rows += 1
        if self.rows % _PAUSE_EACH == 0:
            # This runs beside the loop's thread, which would wait for its turn at Python.
            time.sleep(0.0002)

    def _common(self, text: str) -> str:
        """
        A cell in words that both runs share.
        """
        return moments_replaced(ID.sub(self._named, text), self._own)

    def _named(self, found: re.Match[str]) -> str:
        own = found.group()
        return self.names.get(own) or self._ids.setdefault(own, f"\2{len(self._ids)}")

    def _own(self, moment: datetime.datetime) -> bool:
        since = self.since - _BEFORE
        if moment.tzinfo is not None:
            return moment >= since
        # It may be in UTC, or in this host's time. It is turned into neither: the first of all days, which stands for
        # no time in many tables, can't be.
        return moment >= since.replace(tzinfo=None) or moment >= since.astimezone().replace(tzinfo=None)

    def told(self) -> dict[str, str]:
        # In decimals: a hexadecimal word would be taken for an id, and mapped to the other's.
        return {name: str(int.from_bytes(digest.digest(), "big")) for name, digest in self._digests.items()}


def table_of(name: str, text: str, since: float, names: Mapping[str, str]) -> dict[str, Any] | None:
    """
    What a file's table comes to; None if it has none.

    @param name: The file's name, whose ending says what it is.
    @param since: Wall-clock seconds when the copy was made.
    @param names: Own ids, and the real side's for the same.
    """
    columns = _Columns(datetime.datetime.fromtimestamp(since, datetime.UTC), names)
    try:
        if name.endswith(".csv"):
            form, rows = _csv(text)
        elif name.endswith(".json"):
            form, rows = _json(text)
        else:
            return None
        for row in rows:
            columns.add(row)
    except (ValueError, csv.Error, RecursionError):
        return None
    return {"rows": columns.rows, "form": form, "columns": columns.told()}


_Rows = Iterator[Iterable[tuple[str, str]]]


def _csv(text: str) -> tuple[str, _Rows]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    head = next(lines, [])
    if len(head) < 2 or len(set(head)) != len(head):
        raise ValueError("no head")
    ends = text.count("\r\n")
    form = f"{', '.join(head)}; {ends} CRLF, {text.count(chr(10)) - ends} LF, {text.count(chr(34))} quotes"

    def rows() -> _Rows:
        for line in lines:
            yield zip(head, line, strict=True)

    return form, rows()


def _json(text: str) -> tuple[str, _Rows]:
    found = json.loads(text, object_pairs_hook=_flat)
    if not isinstance(found, list) or not found or not all(isinstance(row, tuple) for row in found):
        raise ValueError("no array of objects")
    # What stands between the values; the values themselves have no space but in quotes.
    spaces = re.findall(r"\s+", _QUOTED.sub("", text))
    form = f"{len(spaces)} spaces, {sum(map(len, spaces))} long; {text.count(chr(92))} escapes"
    as_written: Callable[[Any], str] = json.dumps

    def rows() -> _Rows:
        for row in found:
            cells = [(key, as_written(value)) for key, value in row]
            # A row's keys, in their order, as often as they came.
            yield [("", ",".join(key for key, _ in row)), *cells]

    return form, rows()


def _flat(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    for _, value in pairs:
        if isinstance(value, tuple | list):
            raise ValueError("not flat")
    return tuple(pairs)
