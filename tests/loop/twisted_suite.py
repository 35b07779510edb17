"""
Runs Twisted's own tests on a reactor of choice, and prints what failed as JSON.

    python -m tests.loop.twisted_suite bridge-asyncio|bridge-uvloop|stock-asyncio|stock-uvloop MODULE…

The reactor is both the global one, which trial runs on, and the one that C{ReactorBuilder} makes
for each test. A process of its own, because of both.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor

from bridge.loop.loops import make_loop
from bridge.loop.reactor import BridgeReactor


class BridgeAsyncio(BridgeReactor):
    """
    Ours on asyncio's loop.
    """

    def __init__(self) -> None:
        super().__init__(new_loop=lambda: make_loop("asyncio"))


class BridgeUvloop(BridgeReactor):
    """
    Ours on uvloop's.
    """

    def __init__(self) -> None:
        super().__init__(new_loop=lambda: make_loop("uvloop"))


class StockAsyncio(AsyncioSelectorReactor):
    """
    Twisted's own on asyncio's loop.
    """

    def __init__(self) -> None:
        super().__init__(make_loop("asyncio"))


class StockUvloop(AsyncioSelectorReactor):
    """
    Twisted's own on uvloop's.
    """

    def __init__(self) -> None:
        super().__init__(make_loop("uvloop"))


MAKERS = {
    "bridge-asyncio": BridgeAsyncio,
    "bridge-uvloop": BridgeUvloop,
    "stock-asyncio": StockAsyncio,
    "stock-uvloop": StockUvloop,
}


def main(kind: str, names: list[str]) -> None:
    faulthandler.dump_traceback_later(int(os.environ.get("GIVE_UP", "900")), exit=True)
    from twisted.internet.main import installReactor

    maker = MAKERS[kind]
    installReactor(maker())
    from twisted.internet.test.reactormixins import ReactorBuilder

    ReactorBuilder._reactors = [f"tests.loop.twisted_suite.{maker.__name__}"]
    from twisted.trial import reporter, runner

    class Names(reporter.TestResult):
        """
        Keeps what came of each test.
        """

        def __init__(self) -> None:
            super().__init__()
            self.ran: list[str] = []

        def startTest(self, test: Any) -> None:
            super().startTest(test)
            self.ran.append(test.id())
            print(test.id(), file=sys.stderr, flush=True)

    suite = runner.TestLoader().loadByNames(names, recurse=True)
    result = Names()
    runner.TrialSuite([suite]).run(result)
    failed: dict[str, str] = {}
    for test, failure in [*result.failures, *result.errors]:
        where = test.id() if hasattr(test, "id") else str(test)
        text = failure.getTraceback() if hasattr(failure, "getTraceback") else str(failure)
        failed[where] = text
    json.dump(
        {
            "ran": len(result.ran),
            "skipped": len(result.skips),
            "failed": failed,
            "expected": len(result.expectedFailures),
        },
        sys.stdout,
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
