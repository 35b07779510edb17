"""
Owns the page that a person sees who opens the admin listener in a browser: what there is
to ask and to move, made from the OpenAPI document alone.

Refuses: to move anything; each move is shown as the command that makes it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from bridge.admin.frame import framed


def page_of(document: Mapping[str, Any], base: str) -> str:
    """
    The page, as HTML.

    @param document: An OpenAPI document.
    @param base: Where the listener is reached, with a slash at its end.
    """
    info = document["info"]
    parts = [
        f"<p>{escape(info.get('summary', ''))}</p>",
        f'<p>For programs: <a href="{escape(base)}openapi.json">the OpenAPI document</a>, '
        f'<a href="{escape(base)}metrics">metrics</a>. For people: <a href="{escape(base)}">the board</a>, '
        "<code>bgctl --help</code>.</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(document, base, path, method, operation)
    return framed(info["title"], parts)


def _operation(
    document: Mapping[str, Any], base: str, path: str, method: str, operation: Mapping[str, Any]
) -> Iterator[str]:
    yield f'<h2><code><span class="method {method}">{method.upper()}</span> {escape(path)}</code></h2>'
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    rows = [
        (each["name"], each.get("required", False), each["schema"], each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    body = operation.get("requestBody")
    if body is not None:
        schema = _resolved(document, body["content"]["application/json"]["schema"])
        needed = schema.get("required", [])
        rows += [
            (name, name in needed, _resolved(document, found), found.get("description", ""))
            for name, found in schema["properties"].items()
        ]
    if rows:
        yield "<table><tr><th>name<th>takes<th>meaning"
        for name, needed, found, meaning in rows:
            said = " ".join(filter(None, ["" if needed else "Optional.", meaning]))
            yield f"<tr><td><code>{escape(name)}</code><td>{escape(_type(document, found))}<td>{escape(said)}"
        yield "</table>"
    yield f"<pre>{escape(_curl(base, path, method, rows, body is not None))}</pre>"


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    schema = _resolved(document, schema)
    if "enum" in schema:
        return ", ".join(str(word) for word in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(document, each) for each in schema["anyOf"])
    said = str(schema.get("type", "anything"))
    low, high = schema.get("minimum"), schema.get("maximum")
    return said if low is None or high is None else f"{said} from {low:g} to {high:g}"


def _curl(base: str, path: str, method: str, rows: list[tuple[str, bool, Any, str]], posts: bool) -> str:
    given = {name: _example(schema) for name, needed, schema, _ in rows if needed}
    url = f"{base.rstrip('/')}{path}"
    if posts:
        words = ["curl", "-X", method.upper(), url, "--json", json.dumps(given)]
    elif given:
        words = ["curl", "-G", url, *(f"--data-urlencode={name}={value}" for name, value in given.items())]
    else:
        words = ["curl", url]
    return shlex.join(words)


def _example(schema: Mapping[str, Any]) -> Any:
    known = schema.get("examples") or schema.get("enum") or [schema.get("type", "TEXT").upper()]
    return known[0]
