"""
Owns what a difference is: where, of which class, and what stood on either side.

Refuses: to say whether it matters.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from typing import Any

import attrs

from bridge.parity.ids import ID


class Kind(enum.Enum):
    """
    The classes of differences; a fingerprint is a class at a place.
    """

    STATUS = "status"
    ENDING = "ending"
    TRUNCATED = "truncated"
    HEADER_MISSING = "header_missing"
    HEADER_ADDED = "header_added"
    HEADER = "header"
    BODY = "body"
    BYTES = "bytes"
    VALUE = "value"
    TYPE = "type"
    MISSING = "missing"
    ADDED = "added"
    NULL_OR_MISSING = "null_or_missing"
    INT_OR_FLOAT = "int_or_float"
    STRING_OR_NUMBER = "string_or_number"
    LENGTH = "length"
    ORDER = "order"
    DUPLICATE_KEY = "duplicate_key"
    ID = "id"
    EFFECT_MISSING = "effect_missing"
    EFFECT_ADDED = "effect_added"
    EFFECT_COUNT = "effect_count"


# Places that are one place: array indices, and keys that are data.
_INDEX = re.compile(r"\[\d+\]")
_DATA_KEY = re.compile(r"\.(?:\d+|[^.\[\]]*[^.\[\]\w:-][^.\[\]]*|[^.\[\]]{33,})(?=[.\[]|\Z)")
LONGEST = 400


def place_of(path: str) -> str:
    """
    A path without what varies from one request to the next: indices, ids and keys
    that are data become C{*}.
    """
    return _DATA_KEY.sub(".*", ID.sub("*", _INDEX.sub("[*]", path)))


def fingerprint_of(kind: Kind, path: str) -> str:
    """
    The name of all differences of one class at one place.
    """
    text = f"{kind.value} {place_of(path)}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=6).hexdigest()


@attrs.frozen
class Difference:
    """
    One way in which two answers aren't the same.

    @ivar left: What stood on the first side, as text, shortened.
    """

    kind: Kind
    path: str
    left: str = ""
    right: str = ""

    @property
    def place(self) -> str:
        """
        Where, without what varies between requests.
        """
        return place_of(self.path)

    @property
    def fingerprint(self) -> str:
        """
        The same for the same fault in other requests, and in other processes.
        """
        return fingerprint_of(self.kind, self.path)


def shown(value: Any) -> str:
    """
    A value as a difference shows it.
    """
    if isinstance(value, bytes):
        text = value[: LONGEST + 1].decode("utf-8", "backslashreplace")
    elif isinstance(value, str):
        text = json.dumps(value[:LONGEST], ensure_ascii=False)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
