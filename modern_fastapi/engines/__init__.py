"""
The ways to run a row, chosen by the setting ``engine``. Whatever the way, the row is written first and ends the same.

- ``table``     the durable table and the ``consumer`` loop: the default
- ``local``     in this process: after the response, as an asyncio task, or in a thread
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Engine
from .table import TableEngine

if TYPE_CHECKING:
    from modern_fastapi.services import Services

__all__ = ["Engine", "make_engine"]


def make_engine(services: Services) -> Engine:
    """
    The engine that the settings name.
    """
    return TableEngine(services.bell)
