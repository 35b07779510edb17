"""
Owns how an answer looks to a person: tables in a terminal, plain lines in a pipe.

Refuses: to ask anybody anything.  It gets the same dicts that C{--json} prints.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Differences of one kind at one place that a request shows, of a list's rows for example.
_ALIKE = 3
_COLOURS = {
    "legacy": "",
    "shadow": "cyan",
    "canary": "yellow",
    "live": "green",
    "modern": "bold green",
    "retired": "dim",
    "promote": "green",
    "rollback": "bold red",
}


def status(found: dict[str, Any], console: Console) -> None:
    """
    Where everything stands.
    """
    if found.get("force_legacy"):
        console.print(Text("force_legacy is set: legacy answers everything, whatever the stages say.", "bold red"))
    for line in _trouble(found):
        console.print(Text(line, "bold red"))
    table = _table("route", "stage", ">pairs", ">different", "gate", "why")
    # One line for each route, whatever the terminal's width: `bgctl route` has the rest.
    for column in table.columns[:-1]:
        column.no_wrap = True
    named = max((len(row["route"]) for row in found["routes"]), default=0)
    # What is left beside the other columns, at their widest.
    room = max(24, console.width - named - 46) if console.is_terminal else 10_000
    for row in found["routes"]:
        table.add_row(
            row["route"],
            _standing(row),
            str(row["pairs"]),
            str(row["mismatches"]),
            _coloured(row["gate"]),
            row["why"] if len(row["why"]) <= room else row["why"][: room - 1] + "…",
        )
    console.print(table)
    if found["loops"]:
        loops(found, console)


def loops(found: dict[str, Any], console: Console) -> None:
    """
    The background loops.
    """
    if not found["loops"]:
        console.print("The policy names no loop.")
        return
    _loop_table(found["loops"], console)


def _loop_table(rows: list[dict[str, Any]], console: Console) -> None:
    observed = any(row.get("observed") for row in rows)
    table = _table("loop", "stage", "owner", ">epoch", *((">same", ">different", ">missing") if observed else ()))
    for row in rows:
        seen = row.get("observed") or {}
        counts = [str(seen.get(name, "")) for name in ("same", "different", "missing")] if observed else []
        stage = _coloured(row["stage"]) + (f" → {row['towards']}" if "towards" in row else "")
        table.add_row(row["loop"], stage, row["owner"] or "nobody", str(row["epoch"]), *counts)
    console.print(table)
    for row in rows:
        if row.get("restarts"):
            console.print(Text(f"{row['loop']} died {row['restarts']} times, last: {row['last_error']}", "bold red"))
        error = (row.get("observed") or {}).get("error")
        if error:
            console.print(Text(f"{row['loop']}: its dry run: {error}", "bold red"))


def loop(found: dict[str, Any], console: Console) -> None:
    """
    All about one background loop.
    """
    _loop_table([found], console)
    for row in found["differences"]:
        console.print()
        console.print(Text(f"{row['kind']} at {row['path']}, {_times(row)}, last {_when(row['last_at'])}", "bold"))
        if row["sample"]:
            _tick(row["sample"], console)
    if found["audit"]:
        console.print()
        audit(found["audit"], console)


def _tick(sample: dict[str, Any], console: Console) -> None:
    """
    One tick, as both sides told it.
    """
    console.print(Text(f"the tick {sample['tick']}", "dim"))
    for side, style in (("legacy", ""), ("modern", "red")):
        told = sample.get(side)
        if told is None:
            console.print(Text(f"  {side}: no such tick", style))
        for kind, key, value in told or []:
            console.print(Text(f"  {side}: {kind} {key} {_value(value)}", style), soft_wrap=True)
        if told == []:
            console.print(Text(f"  {side}: nothing", style))


def _times(row: dict[str, Any]) -> str:
    return "once" if row["count"] == 1 else f"{row['count']} times"


def route(found: dict[str, Any], console: Console) -> None:
    """
    All about one route.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in found.items():
        if key == "audit" or value in ([], {}):
            continue
        table.add_row(key, _coloured(str(value)) if key in ("stage", "gate") else Text(str(value)))
    console.print(table)
    if found["audit"]:
        console.print()
        audit(found["audit"], console)


def audit(found: list[dict[str, Any]], console: Console) -> None:
    """
    The audit log, newest first.
    """
    if not found:
        console.print("Nothing was ever moved.")
        return
    table = _table("when", "who", "what", "from", "to", "why")
    for row in found:
        table.add_row(
            _when(row["at"]),
            row["who"],
            row.get("route") or row.get("loop") or "",
            _standing(row["from"]),
            _standing(row["to"]),
            ("forced: " if row["forced"] else "") + row["why"],
        )
    console.print(table)


def moved(found: list[dict[str, Any]], console: Console) -> None:
    """
    What moves came to.
    """
    if not found:
        console.print("Nothing to roll back: every route is at legacy or retired.")
    for row in found:
        name = row.get("route") or row.get("loop")
        if row["changed"] and row["from"] == row["to"]:
            console.print(Text(f"{name} stays at {_plain(row['to'])}."))
        elif row["changed"]:
            console.print(Text(f"{name}: {_plain(row['from'])} → {_plain(row['to'])}"))
        else:
            console.print(Text(f"{name} is at {_plain(row['to'])} already."))
        if row.get("observed"):
            _warned(str(name), row["observed"], console)
        if row.get("anew"):
            console.print("Its evidence begins anew; what was counted before stays as history.")
        if row.get("problem"):
            console.print(Text(f"It counts in this server, but isn't recorded yet: {row['problem']}", "bold red"))


def _warned(name: str, seen: dict[str, Any], console: Console) -> None:
    """
    What spoke against a loop's move, if anything did.
    """
    different, missing = seen["different"], seen["missing"]
    if different or missing:
        line = (
            f"While it was observed, {different} ticks differed, {missing} were missing and {seen['same']} were the "
            f"same: `bgctl loops {name}` shows them, `bgctl handoff {name} legacy` takes it back."
        )
        console.print(Text(line, "yellow"))
    elif not seen["same"]:
        console.print(Text("No tick of it was compared while it was observed.", "yellow"))


def left_behind(found: dict[str, Any], console: Console) -> None:
    """
    What a rollback of all routes doesn't move: the loops.
    """
    for row in found["loops"]:
        stage = row.get("towards", row["stage"])
        if stage not in ("legacy", "observe"):
            back = "legacy" if stage == "live" else "live, and then legacy"
            line = f"The loop {row['loop']} stays {stage}: `bgctl handoff {row['loop']} {back}` moves it."
            console.print(Text(line, "yellow"))


def differences(found: dict[str, Any], console: Console) -> None:
    """
    How a route's sides differ, side by side, with the request that shows it.
    """
    name = found["route"]
    if not found["differences"]:
        console.print(Text(f"{name}: no difference was seen{_compared(found['counts'])}."))
    for rows in _by_request(found["differences"]):
        for row in rows:
            console.print(
                Text(f"{name}: {row['kind']} at {row['path']}, {_times(row)}, last {_when(row['last_at'])}", "bold")
            )
        if rows[0]["sample"]:
            _sample(rows[0]["sample"], {row["fingerprint"] for row in rows}, console)
        console.print()
    for row in found["proposals"]:
        console.print(
            Text(
                f"{row['status']} rule: ignore {row['rule']} (differs by itself in {row['share']:.1%} of "
                f"{row['pairs']} pairs; owner {row['owner']}, until {_when(row['expires'])})"
            )
        )


def answered(found: dict[str, Any], console: Console) -> None:
    """
    What a person decided about a proposed rule.
    """
    console.print(Text(f"{found['route']}: {found['rule']} is {found['status']}, owner {found['owner']}."))
    if found["status"] == "accepted":
        console.print("It counts from the server's next start or reload (SIGHUP) on; evidence begins anew then.")


def _by_request(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """
    The differences that one request shows, together; each without a request by itself.
    """
    made: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        shown_by = json.dumps(row["sample"], sort_keys=True) if row["sample"] else row["fingerprint"]
        made.setdefault(shown_by, []).append(row)
    return list(made.values())


def _sample(sample: dict[str, Any], fingerprints: set[str], console: Console) -> None:
    """
    One request, with what it shows of these differences: what else it shows has a
    request of its own.
    """
    table = _table("", "legacy", "modern")
    legacy, modern = sample.get("legacy") or {}, sample.get("modern") or {}
    mine = [each for each in sample.get("differences", []) if each["fingerprint"] in fingerprints]
    if legacy.get("status") != modern.get("status") and all(each["path"] != "status" for each in mine):
        table.add_row("status", str(legacy.get("status")), Text(str(modern.get("status")), "red"))
    times: Counter[str] = Counter()
    for each in mine:
        times[each["fingerprint"]] += 1
        if times[each["fingerprint"]] <= _ALIKE:
            table.add_row(each["path"], _value(each["legacy"]), Text(_value(each["modern"]), "red"))
    console.print(table)
    more = sum(count - _ALIKE for count in times.values() if count > _ALIKE)
    if more:
        console.print(Text(f"and {more} more like these", "dim"))
    console.print(Text(f"the client got {sample.get('answered', 'one')}'s answer; the same request again:", "dim"))
    console.print(Text(f"  {sample['curl']}"), soft_wrap=True)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"


def _compared(counts: dict[str, int]) -> str:
    sums: Counter[str] = Counter()
    for name, count in counts.items():
        sums[name.rpartition(".")[2]] += count
    pairs, noise = sums["same"] + sums["noise"] + sums["different"], sums["noise"]
    if not pairs:
        return ": nothing was compared yet"
    # Noise shows neither that the sides agree nor that they don't.
    told = f", of which {noise} {'was' if noise == 1 else 'were'} noise: the answering side differed from itself"
    return f" in {pairs} pair{'s' * (pairs != 1)}{told if noise else ''}"


def report(found: dict[str, Any], console: Console) -> None:
    """
    The whole migration on one page.
    """
    stages = ", ".join(f"{count} {stage}" for stage, count in found["stages"].items())
    console.print(Text(f"{found['policy']}: {stages}"))
    console.print()
    status(found, console)
    for each in found["differences"]:
        console.print()
        differences(each, console)
    console.print()
    audit(found["audit"], console)


def checked(found: list[dict[str, Any]], console: Console) -> None:
    """
    What was checked, line by line.
    """
    for row in found:
        mark = Text("ok  ", "green") if row["ok"] else Text("bad ", "bold red")
        console.print(mark + Text(f"{row['what']}: {row['found']}"))


def _trouble(found: dict[str, Any]) -> list[str]:
    said = []
    for name, word in (("state", "State"), ("evidence", "Evidence waits")):
        problem = (found.get(name) or {}).get("problem")
        if problem:
            said.append(f"{word}: {problem}")
    return said


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def _coloured(word: str) -> Text:
    return Text(word, _COLOURS.get(word, ""))


def _standing(row: dict[str, Any]) -> Text:
    text = _coloured(row["stage"])
    return text + Text(f" {row['weight']} %") if row["weight"] else text


def _plain(row: dict[str, Any]) -> str:
    return _standing(row).plain


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
