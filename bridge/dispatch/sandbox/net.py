"""
Owns two small rules of sandboxes: what a series of changes comes to, and how a
request speaks to an instance that knows the same things by other ids.

Refuses: to guess an id that no pair of answers has shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from bridge.dispatch.trial import Request
from bridge.parity.ids import ID
from bridge.parity.observe import Effect, Observation


def net(changes: Iterable[Effect]) -> tuple[Effect, ...]:
    """
    The changes of each row or file as one: what matters is what a write left behind,
    not in how many steps.
    """
    first: dict[tuple[str, str, int], str] = {}
    last: dict[tuple[str, str, int], Effect] = {}
    for place, change in enumerate(changes):
        # Each line that was appended to a file is a change of its own.
        key = (change.kind, change.key, place if change.value["op"] == "append" else -1)
        first.setdefault(key, change.value["op"])
        last[key] = change
    made = []
    for key, change in last.items():
        came, op = first[key] == "insert", change.value["op"]
        if op == "delete" and came:
            continue
        value: dict[str, Any] = dict(change.value)
        value["op"] = op if op in ("append", "delete") else "insert" if came else "update"
        made.append(attrs.evolve(change, value=value))
    return tuple(made)


def ids_of(observation: Observation) -> list[str]:
    """
    The ids in an answer, in their order.
    """
    texts = [observation.prefix.decode("latin-1")]
    texts += [value.decode("latin-1") for _, value in observation.headers]
    return [found for text in texts for found in ID.findall(text)]


def learned(real: Observation, sandboxed: Observation) -> dict[str, str]:
    """
    Which of the sandbox's ids stands for which real one, as two answers to the same
    request show it.
    """
    ours, theirs = ids_of(real), ids_of(sandboxed)
    if real.status != sandboxed.status or len(ours) != len(theirs):
        return {}
    return {a: b for a, b in zip(ours, theirs, strict=True) if a != b}


def rewritten(request: Request, ids: Mapping[str, str]) -> Request:
    """
    A request in the ids of a sandbox.
    """
    if not ids:
        return request

    def swap(found: re.Match[str]) -> str:
        return ids.get(found.group(), found.group())

    def data(value: bytes) -> bytes:
        return ID.sub(swap, value.decode("latin-1")).encode("latin-1")

    scope = dict(request.scope)
    scope["path"] = ID.sub(swap, scope["path"])
    for name in ("raw_path", "query_string"):
        if scope.get(name):
            scope[name] = data(scope[name])
    body = data(request.body)
    headers = [(name, data(value)) for name, value in scope.get("headers", ())]
    if len(body) != len(request.body):
        length = str(len(body)).encode()
        headers = [(name, length if name == b"content-length" else value) for name, value in headers]
    scope["headers"] = headers
    return Request(scope, (body,))


def private_ids(request: Request, real: Observation, sandboxed: Observation, stored: Iterable[Effect]) -> list[str]:
    """
    The ids that a sandbox gave, and that nobody but it can know.
    """
    known = set(ids_of(real))
    known.update(ID.findall(request.body.decode("latin-1")))
    scope = request.scope
    known.update(ID.findall(f"{scope['path']} {scope.get('query_string', b'').decode('latin-1')}"))
    known.update(each for name, value in scope.get("headers", ()) for each in ID.findall(value.decode("latin-1")))
    for effect in real.effects:
        known.update(ID.findall(f"{effect.key} {effect.value}"))
    given = set(ids_of(sandboxed))
    for effect in (*sandboxed.effects, *stored):
        if effect.value is None or not isinstance(effect.value, dict) or effect.value.get("op") == "insert":
            given.update(ID.findall(effect.key))
    return sorted(given - known)
