"""
Owns how a TOML table is read: key by key, each with what it must be, and nothing
left over.  Every error names the file and the path of the key.

Refuses: to know what any key means; C{config} does.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from bridge.errors import ConfigError, NotBuiltError, PatternError


@attrs.define
class Table:
    """
    One TOML table being read; what is left over at the end is unknown.
    """

    data: Mapping[str, Any]
    source: str
    path: str = ""
    prefix: str = ""
    known: list[str] = attrs.field(factory=list)

    def key(self, name: str) -> str:
        if self.prefix:
            return self.prefix + name.replace("_", "-")
        return f"{self.path}.{name}" if self.path else name

    def wrong(self, name: str, problem: str) -> ConfigError:
        return ConfigError(self.source, self.key(name), problem)

    def take(self, name: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        self.known.append(name)
        if name not in self.data:
            return default
        try:
            return read(self.data[name])
        except (ValueError, PatternError) as error:
            raise self.wrong(name, str(error)) from None

    def table(self, name: str) -> Table | None:
        found = self.take(name, a_table)
        return None if found is None else Table(found, self.source, self.key(name))

    def tables(self, name: str) -> list[Table]:
        found = self.take(name, list_of(a_table, "tables"), ())
        return [Table(data, self.source, f"{self.key(name)}[{place}]") for place, data in enumerate(found)]

    def end(self) -> None:
        for name in self.data:
            if name not in self.known:
                near = difflib.get_close_matches(name, self.known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else ("known here: " + ", ".join(sorted(self.known)))
                raise self.wrong(name, f"there is no such key; {hint}")

    def need(self, built: frozenset[str], feature: str, name: str) -> None:
        if feature not in built:
            _, _, value = feature.partition(":")
            said = f"{name} = {value!r}" if value else name
            raise NotBuiltError(
                self.source,
                self.key(name),
                f"{said} is not part of this version yet. Leave it out until it is.",
            )


def given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def a_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"it wants a text, not {value!r}")
    return value


def a_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"it wants true or false, not {value!r}")
    return value


def a_table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it wants a table, not {value!r}")
    return value


def a_number(low: float, high: float, open_ended: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"it wants a number, not {value!r}")
        inside = low < value < high if open_ended else low <= value <= high
        if not math.isfinite(value) or not inside:
            between = "between" if open_ended else "from"
            word = "and" if open_ended else "to"
            raise ValueError(f"{value!r} isn't {between} {low} {word} {high}")
        return float(value)

    return read


def a_whole(low: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"it wants a whole number from {low}, not {value!r}")
        return value

    return read


def one_of(names: Iterable[str]) -> Callable[[Any], str]:
    known = tuple(names)

    def read(value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{value!r} is none of {', '.join(known)}{hint}")
        return str(value)

    return read


def list_of(read: Callable[[Any], Any], what: str) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"it wants a list of {what}, not {value!r}")
        return tuple(read(item) for item in value)

    return read_all
