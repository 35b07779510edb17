"""
Owns the question which policy applies, and reads it: the same answer for twistd,
for uvicorn and for bgctl.

C{--config} if it is given; else C{./bgserver.toml}, unless an application is named
by option; else, with neither, the shipped example; else none.

Refuses: to understand what it reads (L{bridge.config} does), and to go on with a
file that was named and can't be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from bridge.config import EVERYTHING, Config, empty_config, parse_config
from bridge.errors import ConfigError
from bridge.routing import Stage

POLICY = "bgserver.toml"
FORCE_LEGACY = "BGSERVER_FORCE_LEGACY"


def find_policy(
    *,
    config: str | None,
    legacy: str | None,
    modern: str | None,
    cwd: Path,
    example: Path | None,
    environ: Mapping[str, str],
    built: frozenset[str] = EVERYTHING,
) -> Config:
    """
    Read the policy that applies.  Options still have to be merged over it.

    @param config: What C{--config} names; its relative paths start at its folder.
    @param legacy: What C{--legacy} names; it is only asked whether it is given.
    @param modern: The same for C{--modern}.
    @param example: The shipped example, whose relative paths start at C{cwd}.
    @raise ConfigError: If the policy that applies can't be read or used.
    """
    found = attrs.evolve(_found(config, legacy, modern, cwd, example, built), built=built)
    if _forced(environ):
        return attrs.evolve(found, force_legacy=True, options=found.options | {"force_legacy"})
    return found


def _found(
    config: str | None,
    legacy: str | None,
    modern: str | None,
    cwd: Path,
    example: Path | None,
    built: frozenset[str],
) -> Config:
    if config is not None:
        path = cwd / config
        return read_policy(path, path.parent, config, built)
    if legacy is not None or modern is not None:
        return empty_config(cwd)
    path = cwd / POLICY
    if path.exists():
        return read_policy(path, cwd, POLICY, built)
    if example is not None:
        return read_policy(example, cwd, "example.toml", built)
    return empty_config(cwd)


def read_policy(path: Path, base: Path, source: str, built: frozenset[str] = EVERYTHING) -> Config:
    """
    Read one file.

    @param source: What messages call it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, "", f"it can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(source, "", "it is not UTF-8") from None
    return parse_config(text, source, base.absolute(), built)


def reload(old: Config, text: str, built: frozenset[str] = EVERYTHING) -> Config:
    """
    The policy that a running server goes on with after its file changed.

    What is bound when a server starts (addresses, applications, state, loops) stays
    the old one's, whatever the file says now: L{needs_restart} names it.  So is what
    options and environment say, the switch for the worst night above all.

    @raise ConfigError: If the file is broken; the old policy stays.
    """
    new = parse_config(text, old.source, old.base, built)
    taken = {name: getattr(new, name) for name in _READ if name not in old.options}
    made = attrs.evolve(old, **taken)
    if made.modern is None and any(route.stage is not Stage.LEGACY for route in (*made.routes, made.default_route)):
        raise ConfigError(old.source, "modern", "its routes need a modern application, which only a restart brings")
    return made


def needs_restart(old: Config, text: str, built: frozenset[str] = EVERYTHING) -> tuple[str, ...]:
    """
    The keys of the file that have changed, and that no reload changes; what options
    say over the file isn't among them.
    """
    new = parse_config(text, old.source, old.base, built)
    return tuple(n for n in _BOUND if n not in old.options and getattr(old, n) != getattr(new, n))


_READ = ("routes", "default_route", "gate", "force_legacy", "grace")
_BOUND = ("listen", "reuse_port", "trusted_proxies", "admin", "state", "front", "site", "legacy", "modern", "loops")


def _forced(environ: Mapping[str, str]) -> bool:
    value = environ.get(FORCE_LEGACY, "")
    match value.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "" | "0" | "false" | "no" | "off":
            return False
    raise ConfigError(FORCE_LEGACY, "", f"{value!r} is neither 1 nor 0; unset it or write 1")
