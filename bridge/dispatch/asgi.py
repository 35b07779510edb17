"""
Owns the words of ASGI as this room writes them.

Refuses: any behaviour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHADOW = "bgserver.shadow"
EFFECTS = "bgserver.effects"
DECISION = "bgserver.decision"
