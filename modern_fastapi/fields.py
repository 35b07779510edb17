"""
The types of everything that a client may write, with the contract's own words for what is wrong.

Strict: no number is made of a text in JSON, and no text of a number. Texts are never stripped or repaired.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args
from urllib.parse import unquote

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .errors import Refusal

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
ONE_LINE_CONTROLS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
NOT_UTF8 = re.compile(r"[\ud800-\udfff]")
# The same for the OpenAPI document.
LINES = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]*$"
LINE = r"^[^\u0000-\u001f\u007f]*$"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{LABEL}(?:\.{LABEL})+")
EMAIL_LIMIT = 254
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
INTEGER = re.compile(r"-?[0-9]{1,18}")


def wrong(complaint: str) -> PydanticCustomError:
    """
    The error that a validator raises; ``errors`` puts the field's name before it.
    """
    return PydanticCustomError("contract", "{complaint}", {"complaint": complaint})


def text(limit: int, *, one_line: bool = False) -> Any:
    """
    A string of 1 to ``limit`` characters without control characters; tabs and line ends only where it has lines.
    """
    controls = ONE_LINE_CONTROLS if one_line else CONTROLS

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise wrong("must be a string")
        if not 1 <= len(value) <= limit:
            raise wrong(f"must have 1 to {limit} characters")
        if controls.search(value):
            raise wrong("must not contain control characters")
        return value

    schema = {"type": "string", "minLength": 1, "maxLength": limit, "pattern": LINE if one_line else LINES}
    return BeforeValidator(check), WithJsonSchema(schema)


def integer(least: int, most: int) -> Any:
    """
    A JSON integer: ``true``, ``1.0`` and ``"1"`` are none.
    """

    def check(value: object) -> int:
        if type(value) is not int:
            raise wrong("must be an integer")
        if not least <= value <= most:
            raise wrong(f"must be between {least} and {most}")
        return value

    # JSON Schema takes 1.0 for an integer, and has no word for who doesn't.
    schema = {"type": "integer", "minimum": least, "maximum": most, "description": "Without a point: 1.0 is refused."}
    return BeforeValidator(check), WithJsonSchema(schema)


def utf8(check: Callable[[str], Any]) -> Callable[[object], Any]:
    """
    A check of a query parameter. ``requests`` leaves surrogates where the query was no UTF-8.
    """

    def checked(value: object) -> Any:
        # A default that FastAPI filled in is no text; it was chosen by us.
        if not isinstance(value, str):
            return value
        if NOT_UTF8.search(value):
            raise wrong("must be UTF-8")
        return check(value)

    return checked


def event_id(value: str) -> str:
    """
    The number of an event in a header, which servers hand on as Latin-1.
    """
    try:
        value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise wrong("must be UTF-8") from None
    if not INTEGER.fullmatch(value):
        raise wrong("must be an integer")
    return value


def query_text(limit: int, *, one_line: bool = False) -> Any:
    """
    ``text`` in the query.
    """
    validator, schema = text(limit, one_line=one_line)
    return BeforeValidator(utf8(validator.func)), schema


def query_integer(least: int, most: int) -> Any:
    """
    ASCII digits with an optional minus; no sign, space, underline or point that Python would take.
    """

    def check(value: str) -> int:
        if not INTEGER.fullmatch(value):
            raise wrong("must be an integer")
        if not least <= int(value) <= most:
            raise wrong(f"must be between {least} and {most}")
        return int(value)

    return BeforeValidator(utf8(check)), WithJsonSchema({"type": "integer", "minimum": least, "maximum": most})


def one_of(*choices: str, complaint: str) -> Any:
    """
    One of a few words in the query.
    """

    def check(value: str) -> str:
        if value not in choices:
            raise wrong(complaint)
        return value

    return BeforeValidator(utf8(check)), WithJsonSchema({"type": "string", "enum": list(choices)})


def check_email(value: object) -> str:
    """
    An ASCII address of the plain form ``local@host.domain``.
    """
    if not isinstance(value, str):
        raise wrong("must be a string")
    if len(value) > EMAIL_LIMIT or not EMAIL.fullmatch(value):
        raise wrong("must be an e-mail address")
    return value


def decoded(segment: str) -> str:
    """
    One path segment, decoded once. ``middleware`` leaves segments encoded, so that ``%2F`` is no slash.

    Bytes that are no UTF-8 become surrogates, which no check lets through.
    """
    return unquote(segment, errors="surrogateescape")


def path_id(what: str) -> Any:
    """
    An id in the path. One that has not the form of an id is as unknown as any other.
    """

    def check(value: str) -> str:
        if not UUID.fullmatch(value):
            raise Refusal("not_found", f"no such {what}")
        return value

    return BeforeValidator(check), WithJsonSchema({"type": "string", "format": "uuid"})


def _path_text(value: str) -> str:
    plain = decoded(value)
    if NOT_UTF8.search(plain):
        raise wrong("must be UTF-8")
    if len(plain) > 200:
        raise wrong("must have 1 to 200 characters")
    if ONE_LINE_CONTROLS.search(plain):
        raise wrong("must not contain control characters")
    return plain


_EMAIL_SCHEMA = WithJsonSchema({"type": "string", "maxLength": EMAIL_LIMIT, "pattern": f"^{EMAIL.pattern}$"})

Email = Annotated[str, BeforeValidator(check_email), _EMAIL_SCHEMA]
PathEmail = Annotated[str, BeforeValidator(lambda segment: check_email(decoded(segment))), _EMAIL_SCHEMA]
PathItem = Annotated[
    str,
    BeforeValidator(_path_text),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200, "pattern": LINE}),
]
Line = Annotated[str, *text(200, one_line=True)]
Body = Annotated[str, *text(100_000)]
PersonName = Annotated[str, *text(100, one_line=True)]
Bound = Annotated[int, *integer(0, 10_000_000)]
Failures = Annotated[int, *integer(0, 100)]
Message = Annotated[str, *query_text(1000)]
ItemName = Annotated[str, *query_text(200, one_line=True)]
Days = Annotated[int, *query_integer(0, 36500)]
Limit = Annotated[int, *query_integer(1, 1000)]

FormatName = Literal["csv", "json"]
StatusName = Literal["PENDING", "RUNNING", "RETRY", "SUCCESS", "FAILURE", "CANCELLED"]
Format = Annotated[FormatName, *one_of(*get_args(FormatName), complaint="must be csv or json")]

# Parameters that may be absent, but never null: the document says so, where FastAPI would offer both.
MaybeMessage = Annotated[str | None, *query_text(1000)]
MaybeTaskName = Annotated[str | None, *query_text(200, one_line=True)]
MaybeStatus = Annotated[
    StatusName | None, *one_of(*get_args(StatusName), complaint=f"must be one of {', '.join(get_args(StatusName))}")
]
# Whether there is such a task is the route's question.
MaybeTaskId = Annotated[
    str | None, BeforeValidator(utf8(lambda value: value)), WithJsonSchema({"type": "string", "format": "uuid"})
]
MaybeEventId = Annotated[
    str | None, BeforeValidator(event_id), WithJsonSchema({"type": "string", "pattern": f"^{INTEGER.pattern}$"})
]
JsonObject = Annotated[Any, WithJsonSchema({"type": "object", "additionalProperties": True})]
