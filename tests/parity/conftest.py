"""
What the parity tests arrange with: observations made from values.
"""

from __future__ import annotations

import json
from typing import Any

from bridge.parity import Capture, Effect, Ending, Observation, Recording

JSON = [(b"content-type", b"application/json")]


def seen(
    body: Any = b"",
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
    how: Ending = Ending.COMPLETE,
    latency: float = 0.01,
    effects: list[Effect] | None = None,
    capture: Capture | None = None,
    error: str = "",
    chunk: int = 0,
) -> Observation:
    """
    An answer; what isn't bytes is written as JSON.
    """
    recording = Recording(0.0, capture or Capture())
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers = JSON if headers is None else headers
    for effect in effects or ():
        recording.effect(effect.kind, effect.key, effect.value)
    recording.started(status, headers or [], latency)
    size = chunk or max(len(body), 1)
    for start in range(0, len(body), size):
        recording.wrote(body[start : start + size])
    return recording.closed(how, latency * 2, error)


def raw(text: str) -> Observation:
    """
    An answer whose JSON is given as it stands on the wire.
    """
    return seen(text.encode(), headers=JSON)
