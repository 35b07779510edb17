"""
Owns what is known of each route besides its place in the table: what counts as the
same, which code the evidence is of, what the gate asks for.

Reads the two applications' sources to know their identity: once, when it is made.
Refuses: to look at them again while the server runs, since what runs is what was
loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import attrs

from bridge.config import RouteConfig
from bridge.parity import Agreed, Rules
from bridge.parity.identity import digest_of, identity_of
from bridge.parity.redact import names_secret
from bridge.routing import Effects

_LARGEST = 4 * 1024 * 1024
# Two runs of one write can't have happened at once.
MOMENTS = 60.0


@attrs.frozen
class Book:
    """
    One route's facts.

    @ivar secrets: Parameters whose values are secrets.
    """

    route: str
    identity: str
    rules: Rules = attrs.field(factory=Rules)
    outcomes: tuple[int, ...] = ()
    auto: bool = False
    effects: Effects = Effects.NONE
    secrets: tuple[str, ...] = ()


def book_of(route: RouteConfig, legacy: str, modern: str, agreed: tuple[Agreed, ...] = (), now: float = 0.0) -> Book:
    """
    A route's facts, out of the policy.

    @param legacy: The identity of legacy's code, C{modern} that of modern's; see
        L{code_identity}.
    @param agreed: Accepted proposals.
    @param now: Wall-clock seconds, for their expiry.
    """
    sandboxed = route.effects is Effects.SANDBOXED
    rules = Rules(route.ignore, dict(route.tolerate), moments=MOMENTS if sandboxed else 0.0)
    in_force = rules.agreed(agreed, now)
    parameters = route.pattern.parameters if route.pattern is not None else ()
    return Book(
        route.name,
        identity_of(legacy, modern, in_force),
        in_force,
        tuple(route.outcomes),
        route.promote == "auto",
        route.effects,
        tuple(name for name in parameters if names_secret(name)),
    )


def code_identity(app: str | None, version: str | None = None, base: Path | None = None) -> str:
    """
    The identity of one side's code: its declared version, or else a digest of the
    package that the application's name leads to.  Reads files.

    @param app: C{module:name}, C{plugin:…} or the path of a C{.tac}.
    """
    if version is not None:
        return f"version {version}"
    if app is None:
        return "none"
    path = (base or Path()) / app
    if app.endswith((".tac", ".py")) and path.exists():
        # What a .tac loads lies beside it, as a rule.
        return digest_of(_files(path.resolve().parent))
    module = app.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    # Built-in and frozen modules have an origin that is no file.
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return hashlib.blake2b(app.encode(), digest_size=16).hexdigest()
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return digest_of([(origin.name, origin.read_bytes())])
    return digest_of(_files(origin.parent))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            continue
        if path.suffix in _CODE and path.is_file() and path.stat().st_size <= _LARGEST:
            yield relative.as_posix(), path.read_bytes()


# Code, and what code reads as code; not logs, databases or uploads beside it.
_CODE = frozenset({".py", ".tac", ".so", ".pyd", ".sql", ".html", ".jinja", ".jinja2", ".j2", ".toml"})
