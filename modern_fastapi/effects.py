"""
Lets whoever runs this application beside another compare what the two of them do: a server may put a callable into
the request's extensions, and hears there of each row and file that the request makes.
"""

from collections.abc import Callable
from typing import Any

from starlette.types import Scope

EFFECTS = "bgserver.effects"
SHADOW = "bgserver.shadow"

Effects = Callable[[str, str, Any], None]


def effects_of(scope: Scope) -> Effects:
    """
    Where this request's effects are reported: ``(kind, key, value)``; nowhere, as a rule.
    """
    extensions = scope.get("extensions") or {}
    listener: Effects | None = extensions.get(EFFECTS)
    return listener if listener is not None else _nobody


def is_shadow(scope: Scope) -> bool:
    """
    Whether this request is a rehearsal, which leaves no line in the request log.
    """
    return SHADOW in (scope.get("extensions") or {})


def _nobody(kind: str, key: str, value: Any) -> None:
    return None
