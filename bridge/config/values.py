"""
Owns what one value of the policy may be: stages, listeners, URLs, statuses, paths.

Refuses: to know which key it stands under.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.config.tables import a_number, a_table, a_text, a_whole, list_of, one_of
from bridge.routing import Effects, Stage

LOOP_STAGES = ("legacy", "observe", "handoff", "live", "modern")
FRONTS = ("uvicorn", "twisted")
LOOPS = ("auto", "asyncio", "uvloop")
PROMOTES = ("manual", "auto")
ENDPOINTS = ("tcp", "tcp6", "unix", "ssl", "systemd")

EVERYTHING = frozenset(
    {"admin", "loop", "effects:sandboxed", "promote:auto"}
    | {f"front:{name}" for name in FRONTS}
    | {f"stage:{stage.value}" for stage in Stage}
    | {f"loop-stage:{name}" for name in LOOP_STAGES}
)
"""
What a policy can ask for that a version might not have yet: the names that
C{built} is made of.  "admin" is any admin listener, "loop" any C{[[loop]]}.
"""

BUILT = EVERYTHING - {"front:twisted", "loop-stage:handoff"}
"""
What this version has of it.
"""

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/)(?!:memory:)(?!file:)(.+)\Z")


def state_url(url: str, base: Path) -> str:
    """
    A database URL whose relative SQLite path starts at C{base}.
    """
    found = _SQLITE.match(url)
    if found is None:
        return url
    return f"{found[1]}{(base / found[2]).absolute()}"


def a_stage(value: Any) -> Stage:
    return Stage(one_of([stage.value for stage in Stage])(value))


def an_effects(value: Any) -> Effects:
    return Effects(one_of([effects.value for effects in Effects])(value))


def an_endpoint(value: Any) -> str:
    text = a_text(value)
    kind, colon, rest = text.partition(":")
    if kind not in ENDPOINTS or not colon or not rest:
        raise ValueError(
            f"{text!r} is no listener; write one like tcp:8000:interface=127.0.0.1 (kinds: {', '.join(ENDPOINTS)})"
        )
    port = rest.partition(":")[0].removeprefix("port=")
    if kind in ("tcp", "tcp6", "ssl") and "=" not in port and (not port.isdecimal() or int(port) > 65535):
        raise ValueError(f"{port!r} in {text!r} is no port from 0 to 65535")
    return text


listeners = list_of(an_endpoint, "listeners")


def a_trusted(value: Any) -> str:
    text = a_text(value)
    if text != "unix":
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{error}; write an address, a network like 10.0.0.0/8, or unix") from None
    return text


def an_admin(value: Any) -> str:
    return "off" if value == "off" else an_endpoint(value)


def a_url(value: Any) -> str:
    text = a_text(value)
    if "://" not in text:
        raise ValueError(
            f"{text!r} is no database URL; write one like sqlite:///bgserver.db or postgresql://user@host/name"
        )
    return text


def outcomes(value: Any) -> tuple[int, ...]:
    found = list_of(a_whole(100), "statuses")(value)
    if any(status > 599 for status in found):
        raise ValueError("a status lies from 100 to 599")
    return tuple(found)


def an_ignored(value: Any) -> str:
    text = a_text(value)
    if text.startswith("header:") and text != "header:":
        return text.lower()
    if text == "$" or text.startswith(("$.", "$[", "effect:", "events")) or text in ("status", "body", "ending"):
        return text
    raise ValueError(
        f'{text!r} is neither "header:NAME", nor a path like "$.eta", nor an effect like "effect:row:TABLE.COLUMN"'
    )


def tolerances(value: Any) -> Mapping[str, float]:
    made = {}
    for path, difference in a_table(value).items():
        if not path.startswith(("$.", "$[", "header:")) and path != "latency":
            raise ValueError(f'{path!r} is neither a path like "$.eta", nor "header:NAME", nor "latency"')
        made[path] = a_number(0, 1e300)(difference)
    return made
