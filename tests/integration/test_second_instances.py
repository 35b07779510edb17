"""
The second instance of a legacy application that isn't as simple as the example.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application import internet, service
from twisted.web.resource import Resource
from twisted.web.server import Site

from bridge.compose.sandboxes import _Legacy
from bridge.config import AppConfig
from bridge.errors import SiteChoiceError
from tests.web.served import on_loop

PUBLIC = 47101
INTERNAL = 47102


class Ticking(service.Service):
    """
    Stands for all that a tree starts besides its Sites.
    """

    name = "ticking"


ticking = Ticking()


def make_service(settings: dict[str, Any]) -> service.MultiService:
    """
    An application with two Sites, as many have: one for everybody, and one for themselves.
    """
    top = service.MultiService()
    for port in (PUBLIC, INTERNAL):
        site = Site(Resource())
        internet.TCPServer(port, site, interface="127.0.0.1").setServiceParent(top)  # type: ignore[no-untyped-call]
        site.displayTracebacks = port == PUBLIC
    ticking.disownServiceParent() if ticking.parent else None
    ticking.setServiceParent(top)
    return top


def second(site: str | None) -> _Legacy:
    from twisted.internet import reactor

    return _Legacy(AppConfig(f"{__name__}:make_service"), {}, reactor, site)  # type: ignore[arg-type]


@on_loop
async def test_the_second_instance_has_the_site_that_the_policy_names() -> None:
    """
    Where legacy listens with several Sites, C{site} names the one whose routes move, in the sandbox as well.
    Without it there no sandboxed write was ever compared.
    """
    instance = second(f"127.0.0.1:{PUBLIC}")

    app: Any = await instance.start()
    await instance.stop()

    assert app.site.displayTracebacks


@on_loop
async def test_a_second_instance_that_fails_to_start_is_stopped() -> None:
    """
    What had started before the failure is stopped, and doesn't run on while its copies are made anew.
    """
    with pytest.raises(SiteChoiceError):
        await second(None).start()

    assert not ticking.running
