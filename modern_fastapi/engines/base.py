"""
What an engine is: it hears of rows that were committed, and sees that somebody runs them.
"""

from collections.abc import Sequence
from typing import Protocol


class Engine(Protocol):
    """
    One way to run rows. ``name`` stands in the row's column ``engine``.
    """

    name: str

    async def start(self, task_ids: Sequence[str]) -> None:
        """
        Hears of new rows, after the answer was sent. Never raises, and never waits for a broker.
        """

    async def run(self) -> None:
        """
        Sees to the rows until it is cancelled.
        """

    async def close(self, grace: float) -> None:
        """
        Ends what runs here within ``grace`` seconds.
        """
