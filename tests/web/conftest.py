"""
What the web room's tests are given by name.
"""

from __future__ import annotations

import pytest


@pytest.fixture(params=["hot", "asgi"])
def road(request: pytest.FixtureRequest) -> bool:
    """
    Both homes of the channel: whether it is the hot one.
    """
    return bool(request.param == "hot")
