"""
What test_schema.py adds to Schemathesis, which imports this module by the name in SCHEMATHESIS_HOOKS.

Two checks: the legacy application, at the address in LEGACY, answers the same; and valid requests are accepted, but
for what no schema can say.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any
from urllib.parse import unquote

import requests
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from modern_fastapi.fields import EMAIL
from tests.contract.cases import HEADERS

# What the sides make up for themselves.
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z")

# Two answers of the contract: an integer has no point, where JSON Schema takes 1.0 for one; and an id that nobody has
# is a wrong parameter.
UNSAYABLE = ("must be an integer", "after: no such task")


def comparable(answer: Any, body: bytes) -> tuple[int, dict[str, Any], str]:
    """
    What the contract lists of an answer, without what no two servers have in common.
    """
    listed = {name.lower(): answer.headers.get(name.lower()) for name in ("Content-Type", *HEADERS)}
    # Each stack has its own session for itself, by another name.
    listed.pop("set-cookie")
    headers = {name: ", ".join(value) if isinstance(value, list) else value for name, value in listed.items() if value}
    text = TIME.sub("TIME", ID.sub("ID", body.decode("utf-8", "surrogateescape")))
    return answer.status_code, headers, text


class Legacy:
    """
    The other side. Requests may name what earlier ones have made, so it is remembered how that is called there.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def ask(self, case: Any) -> requests.Response:
        asked = case.as_transport_kwargs(base_url=os.environ["LEGACY"])
        asked["url"] = ID.sub(lambda found: self._names.get(found[0], found[0]), asked["url"])
        asked["params"] = {
            name: self._names.get(value, value) if isinstance(value, str) else value
            for name, value in (asked.get("params") or {}).items()
        }
        return requests.request(**asked, timeout=10)

    def learn(self, modern: bytes, legacy: bytes) -> None:
        """
        From two answers that are the same but for their ids.
        """
        pairs = zip(ID.findall(modern.decode("latin-1")), ID.findall(legacy.decode("latin-1")), strict=True)
        self._names.update(pairs)


LEGACY = Legacy()


@schemathesis.check
def same_as_legacy(ctx: Any, response: Any, case: Any) -> None:
    """
    The same request gets the same answer there.
    """
    other = LEGACY.ask(case)
    modern, legacy = comparable(response, response.content), comparable(other, other.content)
    assert modern == legacy, f"legacy answers {legacy}"
    LEGACY.learn(response.content, other.content)


@schemathesis.check
def accepted_if_sayable(ctx: Any, response: Any, case: Any) -> None:
    """
    Schemathesis's own check, but for the two; and but for addresses in a path that it takes for valid, and that have a
    replacement character which the document's own pattern doesn't.
    """
    address = unquote(str((case.path_parameters or {}).get("email", "")))
    if address and not EMAIL.fullmatch(address):
        return
    message = ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        message = json.loads(response.content)["message"]
    if response.status_code != 400 or not message.endswith(UNSAYABLE):
        positive_data_acceptance(ctx, response, case)
