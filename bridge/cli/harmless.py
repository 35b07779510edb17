"""
Owns what of a text a terminal may get: no byte of it is a command.

Names, reasons and above all the requests that a sample keeps come from strangers.  Control
characters, with which a terminal can be made to hide a line, to set its title or worse, are
shown as escapes; so are those that turn the direction of writing, and halves of characters.

Refuses: to change what programs get; they read JSON, where all of this is escaped anyway.
"""

from __future__ import annotations

import unicodedata
from typing import Any

# Control, surrogates, and format characters, which turn, join or hide text.
_BAD = frozenset({"Cc", "Cs", "Cf"})
# What a person copies into a shell keeps its lines.
_KEPT = {"curl": "\n"}


def harmless(found: Any, kept: str = "") -> Any:
    """
    An answer whose texts a terminal shows as they are.

    @param kept: Control characters that may stay.
    """
    match found:
        case str():
            return "".join(char if char in kept or _good(char) else _escaped(char) for char in found)
        case dict():
            return {harmless(key): harmless(value, _KEPT.get(key, "")) for key, value in found.items()}
        case list() | tuple():
            return [harmless(each) for each in found]
    return found


def _good(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) not in _BAD


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
