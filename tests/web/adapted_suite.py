"""
Runs test modules of others on the bridged reactor, and prints what failed as JSON.

    python -m tests.web.adapted_suite native|listened|built|channels MODULE…

C{native} is Twisted's own Site and channel. With C{listened} every Site that a test
listens with is served by a front; with C{built} also what C{Site.buildProtocol} makes is
ours, over whatever transport the test has, in memory or not.  With C{channels} so is every
C{HTTPChannel} that a test makes by itself.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
import warnings
from typing import Any


def adapt(reactor: Any, built: bool, channels: bool) -> None:
    """
    Put the adapter where Sites listen and, if asked, where they build their protocols.
    """
    from twisted.web.server import Site

    from bridge.web.adopt import Adopter
    from bridge.web.facade import HostProtocol
    from bridge.web.front import Road
    from bridge.web.listen import Front, Listener
    from bridge.web.resource_app import ResourceApp
    from bridge.web.site_protocol import SiteProtocol

    adopter = Adopter(reactor)
    front = Front(reactor, adopter)
    adopter.on_adopt = front.add
    reactor.on_listen = adopter
    # trial runs and crashes the reactor again and again, on one loop: the front stays up.
    reactor.loop.run_until_complete(front.start(ResourceApp(Site(None), reactor)))  # type: ignore[no-untyped-call]
    front._clock.cancel()  # type: ignore[union-attr]

    def build(self: Any, addr: Any) -> HostProtocol:
        def make() -> asyncio.Protocol:
            made: asyncio.Protocol = SiteProtocol(
                front._config, front.state, {}, reactor.loop, road=Road(self), look=False
            )
            return made

        return HostProtocol(make)

    if built:
        Site.buildProtocol = build  # type: ignore[method-assign]
    assert Listener is not None
    if channels:
        from twisted.web import http

        from tests.web.adapted_channel import adapted_channel

        http.HTTPChannel = adapted_channel(front._config, front.state, reactor)  # type: ignore[misc, assignment]


def main(mode: str, names: list[str]) -> None:
    faulthandler.dump_traceback_later(int(os.environ.get("GIVE_UP", "600")), exit=True)
    warnings.simplefilter("ignore")
    from bridge.loop import install

    reactor = install("asyncio")
    if mode != "native":
        adapt(reactor, mode == "built", mode == "channels")
    from twisted.trial import reporter, runner

    class Names(reporter.TestResult):  # type: ignore[misc]
        """
        Keeps the names.
        """

        def __init__(self) -> None:
            super().__init__()
            self.passed: list[str] = []

        def startTest(self, test: Any) -> None:
            super().startTest(test)
            # So that one which never ends can be named.
            print("TEST", test.id(), file=sys.stderr, flush=True)

        def addSuccess(self, test: Any) -> None:
            super().addSuccess(test)
            self.passed.append(test.id())

    found = Names()
    runner.TrialSuite([runner.TestLoader().loadByNames(names, True)]).run(found)
    bad = {test.id(): str(why)[-2000:] for test, why in [*found.errors, *found.failures]}
    told = {"ran": found.testsRun, "passed": sorted(found.passed), "bad": bad}
    print("\nSUITE " + json.dumps(told))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
