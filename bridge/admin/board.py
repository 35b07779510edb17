"""
Owns the board: where every route and loop stands, for whoever opens the admin listener in
a browser.  It shows what C{/api/report} answers, and asks again by itself.

Refuses: to move anything.  Who only looks can do no harm; moves are C{bgctl}'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from bridge.admin.frame import framed

AGAIN = 5
"""
Seconds between two looks.
"""


def board_of(found: Mapping[str, Any], base: str, now: float) -> str:
    """
    The board, as HTML.

    @param found: A report, as the API answers it.
    @param base: Where the listener is reached, with a slash at its end.
    @param now: Wall-clock seconds.
    """
    return framed("bgserver", _parts(found, base, now), again=AGAIN, kind="board")


def _parts(found: Mapping[str, Any], base: str, now: float) -> Iterator[str]:
    stages = ", ".join(f"{count} at {stage}" for stage, count in found["stages"].items() if count)
    yield f"<p>Routes: {escape(stages)}. Policy: <code>{escape(found['policy'])}</code>.</p>"
    for line in _trouble(found):
        yield f'<p class="trouble">{escape(line)}</p>'
    yield "<h2>Routes</h2>"
    yield from _table(("route", "stage", "#pairs", "#different", "gate", "why"), map(_route, found["routes"]))
    if found["loops"]:
        yield "<h2>Loops</h2>"
        yield from _table(("loop", "stage", "owner", "#epoch", "observed"), map(_loop, found["loops"]))
    differences = [(each["route"], row) for each in found["differences"] for row in each["differences"]]
    if differences:
        yield "<h2>Differences</h2>"
        yield from _table(("route", "where", "kind", "#times", "last"), [_difference(*each) for each in differences])
        yield "<p class=quiet><code>bgctl parity ROUTE</code> shows both sides, and the request again.</p>"
    if found["audit"]:
        yield "<h2>Last changes</h2>"
        yield from _table(("when", "who", "what", "from", "to", "why"), map(_change, found["audit"]))
    yield (
        f'<p class="quiet">As of {_when(now)}; again every {AGAIN} seconds. '
        f'<a href="{escape(base)}docs">What can be asked and moved</a>, '
        f'<a href="{escape(base)}metrics">metrics</a>.</p>'
    )


def _trouble(found: Mapping[str, Any]) -> Iterator[str]:
    if found["force_legacy"]:
        yield "FORCE_LEGACY: legacy answers everything on this server, whatever the stages say."
    for part in ("state", "evidence"):
        problem = (found.get(part) or {}).get("problem")
        if problem:
            yield f"The {part} can't be stored: {problem}"
    for row in found["loops"]:
        if row.get("restarts"):
            yield f"The loop {row['loop']} died {row['restarts']} times, last: {row['last_error']}"


Cell = tuple[str, str]
"""
A text, and a class of the style; empty for none.
"""


def _table(heads: Sequence[str], rows: Iterable[Iterable[Cell]]) -> Iterator[str]:
    """
    @param heads: With a number sign before a column of numbers.
    """
    kinds = ["number" if head.startswith("#") else "" for head in heads]
    titles = (f"<th{_class(kind)}>{escape(head.lstrip('#'))}" for head, kind in zip(heads, kinds, strict=True))
    yield f"<table><tr>{''.join(titles)}"
    for row in rows:
        cells = (f"<td{_class(kind or own)}>{escape(text)}" for (text, own), kind in zip(row, kinds, strict=True))
        yield f"<tr>{''.join(cells)}"
    yield "</table>"


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def _difference(route: str, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (route, ""), (row["path"], ""), (row["kind"], ""), (str(row["count"]), ""), (_when(row["last_at"]), "")


def _route(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        (row["route"], ""),
        (_standing(row), row["stage"]),
        (str(row["pairs"]), ""),
        (str(row["mismatches"]), ""),
        (row["gate"], row["gate"]),
        (row["why"], ""),
    )


def _loop(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    seen = row.get("observed") or {}
    counts = ", ".join(f"{seen[name]} {name}" for name in ("same", "different", "missing") if name in seen)
    stage = row["stage"] + (f" → {row['towards']}" if "towards" in row else "")
    owner = row["owner"] or "nobody"
    return (row["loop"], ""), (stage, row["stage"]), (owner, ""), (str(row["epoch"]), ""), (counts, "")


def _change(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    why = ("forced: " if row["forced"] else "") + row["why"]
    what = row.get("route") or row.get("loop") or ""
    old, new = row["from"], row["to"]
    return (
        (_when(row["at"]), ""),
        (row["who"], ""),
        (what, ""),
        (_standing(old), old["stage"]),
        (_standing(new), new["stage"]),
        (why, ""),
    )


def _standing(row: Mapping[str, Any]) -> str:
    return f"{row['stage']} {row['weight']:g} %" if row["stage"] == "canary" else str(row["stage"])


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
