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
from rich.text import Text

from bridge.cli.overrides import overridden
from bridge.cli.tables import table, width_of

# Differences of one kind at one place that a request shows, of a list's rows for example.
_ALIKE = 3
# Names of what a rollback had nothing to do with.
_NAMED = 40
# What has a place of its own in what is shown of a route.
_ELSEWHERE = frozenset({"audit", "servers", "force_legacy", "asked", "forced_by"})
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
    for line in overridden(found):
        console.print(Text(line, "bold red"))
    for line in _trouble(found):
        console.print(Text(line, "bold red"))
    rows = [
        (row["route"], _standing(row), str(row["pairs"]), str(row["mismatches"]), _coloured(row["gate"]), row["why"])
        for row in found["routes"]
    ]
    table(console, ("route", "stage", ">pairs", ">different", "gate", "why"), rows, shared="routes")
    if found["loops"]:
        console.print()
        _loop_table(found["loops"], console)
    if found.get("asked") == "state":
        console.print()
        running = ", ".join(sorted(row["name"] for row in found.get("servers", []) if row["alive"]))
        said = f"Running on this state: {running}." if running else "No server is known to run on this state."
        console.print(Text(said, "dim"))


def loops(found: dict[str, Any], console: Console) -> None:
    """
    The background loops.
    """
    if not found["loops"]:
        console.print("The policy names no loop.")
        return
    for line in overridden({**found, "routes": []}):
        console.print(Text(line, "bold red"))
    _loop_table(found["loops"], console)


def _loop_table(rows: list[dict[str, Any]], console: Console) -> None:
    observed = any(row.get("observed") for row in rows)
    made = []
    for row in rows:
        seen = row.get("observed") or {}
        counts = [str(seen.get(name, "")) for name in ("same", "different", "missing")] if observed else []
        stage = _coloured(row["stage"]) + (f" → {row['towards']}" if "towards" in row else "")
        made.append((row["loop"], stage, row["owner"] or "nobody", str(row["epoch"]), *counts, ""))
    heads = ("loop", "stage", "owner", ">epoch", *((">same", ">different", ">missing") if observed else ()), "")
    table(console, heads, made)
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
    if "differences" not in sample:
        console.print("  what both sides did in it was too much to be kept")
        return
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
    for line in overridden({"routes": [found], "loops": [], **found}):
        console.print(Text(line, "bold red"))
    rows = []
    for key, value in found.items():
        if key in _ELSEWHERE or value in ([], {}):
            continue
        rows.append((Text(key, "dim"), _coloured(str(value)) if key in ("stage", "gate") else _said(value)))
    table(console, ("", ""), rows)
    if found["audit"]:
        console.print()
        audit(found["audit"], console)


def _said(value: Any) -> str:
    """
    What a policy declares, as people write it.
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key} by {each}" for key, each in value.items())
    return str(value)


def audit(found: list[dict[str, Any]], console: Console) -> None:
    """
    The audit log, newest first.
    """
    if not found:
        console.print("Nothing was ever moved.")
        return
    rows = [
        (
            _when(row["at"]),
            row["who"],
            row.get("route") or row.get("loop") or "",
            _standing(row["from"]),
            _standing(row["to"]),
            ("forced: " if row["forced"] else "") + row["why"],
        )
        for row in found
    ]
    if width_of(rows) <= console.width:
        table(console, ("when", "who", "what", "from", "to", "why"), rows)
        return
    for when, who, what, old, new, why in rows:
        console.print(Text(f"{when}  {what}: ") + old + " → " + new)
        console.print(Text(f"    {who}{': ' * bool(why)}{why}", "dim"))


def moved(found: list[dict[str, Any]], console: Console) -> None:
    """
    What moves came to.
    """
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
        if row.get("overruled_on"):
            line = f"It doesn't count yet on {', '.join(row['overruled_on'])}: FORCE_LEGACY is set there."
            console.print(Text(line, "bold red"))
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


def rolled_back(found: dict[str, Any], console: Console) -> None:
    """
    What a rollback moved, and what it left where it was, and why.
    """
    if found["moved"]:
        moved(found["moved"], console)
    elif found["left"]:
        console.print("Nothing to roll back: every route is at legacy or retired.")
    legacys: dict[str, list[str]] = {}
    for row in found["left"]:
        what = "route" if "route" in row else "loop"
        if row["side"] == "legacy" and row["stage"] != "shadow":
            legacys.setdefault(row["why"], []).append(row[what])
    for row in found["left"]:
        if row["side"] == "legacy" and row["stage"] != "shadow":
            continue
        name = row.get("route") or f"the loop {row.get('loop')}"
        console.print(Text(f"Left: {name} stays {_plain({'weight': 0, **row})}: {row['why']}.", "yellow"))
    for why, names in legacys.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        console.print(Text(f"Left, since {why}: {', '.join(names[:_NAMED])}{more}.", "dim"))


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
    if "curl" not in sample:
        console.print(Text("the request and its answers were too long to be kept", "dim"))
        return
    legacy, modern = sample.get("legacy") or {}, sample.get("modern") or {}
    mine = [each for each in sample.get("differences", []) if each["fingerprint"] in fingerprints]
    rows: list[tuple[str, str, str]] = []
    if legacy.get("status") != modern.get("status") and all(each["path"] != "status" for each in mine):
        rows.append(("status", str(legacy.get("status")), str(modern.get("status"))))
    times: Counter[str] = Counter()
    for each in mine:
        times[each["fingerprint"]] += 1
        if times[each["fingerprint"]] <= _ALIKE:
            rows.append((each["path"], _value(each["legacy"]), _value(each["modern"])))
    if width_of(rows) <= console.width:
        table(console, ("", "legacy", "modern"), [(path, left, Text(right, "red")) for path, left, right in rows])
    else:
        for path, left, right in rows:
            console.print(Text(path), soft_wrap=True)
            table(console, ("", ""), [("  legacy", left), ("  modern", Text(right, "red"))])
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


def _coloured(word: str) -> Text:
    return Text(word, _COLOURS.get(word, ""))


def _standing(row: dict[str, Any]) -> Text:
    text = _coloured(row["stage"])
    return text + Text(f" {row['weight']} %") if row["weight"] else text


def _plain(row: dict[str, Any]) -> str:
    return _standing(row).plain


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
