"""
The durable table: rows wait for a ``consumer``, here or in any other process, of this application or the old one.
"""

from collections.abc import Sequence

from modern_fastapi.bell import Bell


class TableEngine:
    """
    Rings for the consumer of this process; the others look by themselves.
    """

    name = "table"

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    async def start(self, task_ids: Sequence[str]) -> None:
        self._bell.ring()

    async def run(self) -> None:
        # The consumer loop does it all; nothing to see to here.
        return None

    async def close(self, grace: float) -> None:
        return None
