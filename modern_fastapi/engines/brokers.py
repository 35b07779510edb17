"""
Celery, RQ and Dramatiq.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Engine

if TYPE_CHECKING:
    from modern_fastapi.services import Services


def make_broker_engine(services: Services, name: str) -> Engine:
    raise LookupError(name)
