"""
Owns the sample that is kept of a different pair: the request, both answers, what
differs, and the command that asks the same again; all of it redacted.

Refuses: to keep more than a size, and to say anything that the redactor hasn't seen.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import Any

import attrs

from bridge.parity.differences import Difference
from bridge.parity.headers import normalised
from bridge.parity.observe import Effect, Observation
from bridge.parity.redact import Redactor

MOST = 64 * 1024
_BODY = 16 * 1024
# What curl writes by itself.
_OWN = frozenset({"host", "content-length", "connection", "user-agent", "accept-encoding"})


@attrs.frozen
class Asked:
    """
    A request, as far as a sample tells it.

    @ivar secrets: Decoded path segments whose parameters' names say secret.
    """

    method: str
    raw_path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    secrets: tuple[bytes, ...] = ()


def sample_of(
    asked: Asked,
    legacy: Observation,
    modern: Observation,
    answered: str,
    differences: Iterable[Difference],
    redactor: Redactor,
) -> str:
    """
    The sample, as JSON text of 64 KiB at most.
    """
    kind = next((v.decode("latin-1") for n, v in asked.headers if n.lower() == b"content-type"), "")
    request = {
        "method": asked.method,
        "path": redactor.path(asked.raw_path, asked.secrets),
        "query": redactor.query(asked.query),
        "headers": redactor.headers(asked.headers),
        "body": _short(redactor.body(asked.body, kind)),
    }
    made: dict[str, Any] = {
        "request": request,
        "curl": curl(request),
        "legacy": _answer(legacy, redactor),
        "modern": _answer(modern, redactor),
        "answered": answered,
        "differences": _differences(differences, redactor),
    }
    text = json.dumps(made, ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) > MOST:
        for side in (request, made["legacy"], made["modern"]):
            side["body"] = "(left out: the sample would be too long)"
        made["curl"] = curl(request)
        text = json.dumps(made, ensure_ascii=False)
    return text if len(text.encode("utf-8", "replace")) <= MOST else json.dumps({"request": None})


def tick_sample_of(
    tick: str,
    legacy: Iterable[Effect] | None,
    modern: Iterable[Effect] | None,
    differences: Iterable[Difference],
    redactor: Redactor,
) -> str:
    """
    The same of a background loop's tick: what legacy did in it, and what modern's dry
    run would have done; None where one of them had no such tick.
    """
    made = {
        "tick": redactor.text(tick),
        "legacy": None if legacy is None else _effects(legacy, redactor),
        "modern": None if modern is None else _effects(modern, redactor),
        "differences": _differences(differences, redactor),
    }
    text = json.dumps(made, ensure_ascii=False)
    return text if len(text.encode("utf-8", "replace")) <= MOST else json.dumps({"tick": made["tick"]})


def _differences(differences: Iterable[Difference], redactor: Redactor) -> list[dict[str, str]]:
    return [
        {
            "fingerprint": each.fingerprint,
            "kind": each.kind.value,
            "path": shown.path,
            "legacy": shown.left,
            "modern": shown.right,
        }
        for each, shown in ((d, redactor.difference(d)) for d in list(differences)[:100])
    ]


def _effects(effects: Iterable[Effect], redactor: Redactor) -> list[list[Any]]:
    return [[e.kind, redactor.text(e.key), redactor.document(_plain(e.value))] for e in list(effects)[:50]]


def _answer(observation: Observation, redactor: Redactor) -> dict[str, Any]:
    kind = ", ".join(normalised(observation).get("content-type", ()))
    return {
        "status": observation.status,
        "headers": redactor.headers(observation.headers),
        "body": _short(redactor.body(observation.prefix, kind)),
        "ending": observation.ending.value,
        "error": observation.error,
        "latency": observation.latency,
        "effects": _effects(observation.effects, redactor),
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _short(text: str) -> str:
    return text if len(text) <= _BODY else text[:_BODY] + "…"


def curl(request: dict[str, Any]) -> str:
    """
    The command that asks the same again, of the host that was asked; secrets are left as
    their tokens.
    """
    asked = next((value for name, value in request["headers"] if name == "host"), "127.0.0.1:8000")
    host = f"http://{asked}"
    query = f"?{request['query']}" if request["query"] else ""
    words = ["curl", "-i"]
    if request["method"] == "HEAD":
        words.append("--head")
    elif request["method"] != "GET":
        words += ["-X", request["method"]]
    words.append(host + request["path"] + query)
    for name, value in request["headers"]:
        if name not in _OWN:
            words += ["-H", f"{name}: {value}"]
    if request["body"]:
        words += ["--data-binary", request["body"]]
    return shlex.join(words)
