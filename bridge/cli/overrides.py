"""
Owns what bgctl says where the stages aren't what counts: legacy answers everything, on
servers that said so, or on the next one that starts here.

Refuses: to take the one for the other.  What runs is known from the server, or from what
it left in the state; file and environment at hand say only what a start would do.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_BELOW = ("canary", "live", "modern")


def overridden(found: dict[str, Any]) -> list[str]:
    """
    The lines that have to be seen before any stage is; none where the stages count.

    @param found: A status, or a route; C{asked} is "state" where no server answered.
    """
    lines = []
    servers = found.get("servers") or []
    running = [row for row in servers if row["alive"]]
    forced = [row["name"] for row in running if row["force_legacy"]]
    by_state = found.get("asked") == "state"
    if forced:
        others = [row["name"] for row in running if not row["force_legacy"]]
        but = f" The stages count on {_names(others)}." if others else ""
        where = _names(forced)
        lines.append(f"FORCE_LEGACY on {where}: legacy answers everything there, whatever the stages say.{but}")
    elif found.get("force_legacy") and not by_state:
        lines.append("FORCE_LEGACY: legacy answers everything on this server, whatever the stages say.")
    if by_state:
        lines += _without(found, running, servers)
    if lines:
        lines += _which(found)
    return lines


def _without(found: dict[str, Any], running: list[dict[str, Any]], servers: list[dict[str, Any]]) -> list[str]:
    """
    What the state alone doesn't show: a server that was killed, and one that would start.
    """
    lines = []
    if not running and servers and servers[0]["force_legacy"]:
        lines.append(
            f"FORCE_LEGACY was set on {servers[0]['name']}, which gave its last sign of life at "
            f"{_when(servers[0]['at'])} and didn't stop in order: if it runs, legacy answers everything there."
        )
    if found.get("force_legacy") and not any(row["force_legacy"] for row in running):
        by = found.get("forced_by") or "the policy"
        now = f"it isn't on {_names([row['name'] for row in running])}, which runs now" if running else "none runs now"
        lines.append(
            f"FORCE_LEGACY is set by {by} here: on a server that starts with it legacy answers everything, "
            f"whatever the stages say; {now}."
        )
    return lines


def _which(found: dict[str, Any]) -> list[str]:
    """
    What legacy does there though its stage says otherwise, and what it can't.
    """
    rows = [(row["route"], row["stage"]) for row in found["routes"]]
    # A reload of the policy overrides no loop: whoever owns one keeps it.
    kept = [f"the loop {row['loop']}" for row in found["loops"] if row["owner"] == "modern"]
    for row in found["loops"]:
        if row["owner"] != "modern":
            rows.append((f"the loop {row['loop']}", row.get("towards", row["stage"])))
    overruled = [f"{name} ({stage})" for name, stage in rows if stage in _BELOW]
    retired = [name for name, stage in rows if stage == "retired"]
    lines = []
    if overruled:
        lines.append(f"Overridden there: {', '.join(overruled)}.")
    if kept:
        lines.append(f"Still modern's, until a restart: {', '.join(kept)}.")
    if retired:
        lines.append(
            f"Retired: {', '.join(retired)}. A server that got the switch by SIGHUP has modern answer there; one that "
            "started with it asks legacy's application, whose code for it is gone."
        )
    return lines


def _names(names: list[str]) -> str:
    return ", ".join(names)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
