"""
Owns what a person is told when the server is up: a few lines, the same in the log of
either shell.

Refuses: to be long.  `bgctl status` has the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.routing import RouteTable
from bridge.state.database import shown_url

if TYPE_CHECKING:
    from bridge.compose.server import Server


def summary(server: Server) -> list[str]:
    """
    Where it listens, what runs on which side, how to stop it.
    """
    lines = []
    if server.owns_loop:
        addresses = ", ".join(_url(listener.address) for listener in server.front.listeners)
        lines.append(f"Listening on {addresses or 'no address'}.")
        lines.extend(f"Operators on {_url(listener.address)}." for listener in server.admin.listeners)
    lines.extend(_closed(server))
    lines.append(_sides(server.stages.table.value))
    if server.loops:
        lines.append("Loops: " + ", ".join(f"{loop.name} {loop.stage().value}" for loop in server.loops) + ".")
    where = "out of reach" if server.state is None else shown_url(server.config.state)
    if server.config.source == "options":
        lines.append(f"Policy: options alone. State: {where}. Write a bgserver.toml, and bgctl has the same policy.")
    else:
        lines.append(f"Policy: {server.config.source}. State: {where}. `bgctl status` shows both.")
    if server.owns_loop:
        lines.append("Ctrl-C or SIGTERM stops it, within a few seconds; a second one at once.")
    return lines


def _closed(server: Server) -> list[str]:
    """
    The addresses that somebody asked for and nobody listens on.
    """
    opened = {listener.address for listener in server.front.listeners}
    closed = [] if server.adopter.opens else sorted({each.address for each in server.adopter.adopted} - opened)
    if not server.owns_loop:
        closed.extend(server.config.listen)
        closed.extend([] if server.config.admin == "off" else [server.config.admin])
    if not closed:
        return []
    why = "legacy is served where `listen` says" if server.owns_loop else "uvicorn has the only listener"
    return [f"Not opened: {', '.join(closed)}; {why}."]


def _sides(table: RouteTable) -> str:
    if table.force_legacy:
        return "Routes: force_legacy is set, so legacy answers everything."
    counts: dict[str, int] = {}
    for route in table.routes:
        counts[route.stage.value] = counts.get(route.stage.value, 0) + 1
    said = ", ".join(f"{count} {stage}" for stage, count in counts.items())
    rest = f"everything else {table.default.stage.value}" if counts else f"everything {table.default.stage.value}"
    return f"Routes: {said}; {rest}." if said else f"Routes: {rest}."


def _url(address: str) -> str:
    return address if address.startswith("unix:") else f"http://{address}"
