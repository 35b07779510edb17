"""
A legacy route keeps its road when somebody begins to watch it: its access log, its drain
and the server's counts, over real sockets.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from bridge.dispatch import Dispatcher, ShadowQueue
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.web.served import on_loop, serving, until
from tests.web.wire import Unjudged, quiet

STAGES = [Stage.LEGACY, Stage.SHADOW, Stage.CANARY]


class Waits(Resource):
    """
    Answers under C{/later} when it is told to, and everything else at once.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Request] = []
        self.channels: list[str] = []

    def render_GET(self, request: Request) -> Any:
        self.channels.append(type(request.channel).__name__)
        if request.path != b"/later":
            return b"now"
        self.waiting.append(request)
        return NOT_DONE_YET


class House:
    """
    A Site, and the dispatcher whose rules hold on its road.
    """

    def __init__(self, stage: Stage) -> None:
        from twisted.internet import reactor
        from twisted.web.server import Site

        from bridge.web.resource_app import ResourceApp

        self.leaf, self.judge, self.logged = Waits(), Unjudged(), []  # type: ignore[var-annotated]
        self.site = Site(self.leaf)
        self.site.log = lambda request: self.logged.append(request.uri)  # type: ignore[method-assign]
        sides = {Side.LEGACY: ResourceApp(self.site, reactor), Side.MODERN: quiet}
        route = Route(None, stage, effects=Effects.NONE, weight=0.0)
        self.shadows = ShadowQueue(sides, self.judge)
        self.dispatcher = Dispatcher(Cell(RouteTable.build([], route)), sides, self.shadows)

    def serving(self) -> Any:
        decide = self.dispatcher.table.value.decide
        return serving(self.site, self.dispatcher, decide, watch=self.dispatcher.watch)


@pytest.mark.parametrize("stage", STAGES)
@on_loop
async def test_the_road_the_log_and_the_count(stage: Stage) -> None:
    """
    At any stage at which legacy answers, its client is served by the channel on uvicorn's
    transport, is in the access log once, and is counted once; shadows are in neither.
    """
    house = House(stage)
    async with house.serving() as served:
        client = await served.connect()
        for _ in range(3):
            assert (200, b"now") == (await client.get("/"))[::2]
        on_road = house.leaf.channels.count("_LoopChannel")
        await house.shadows.settled()

        assert 3 == on_road
        assert [b"/"] * 3 == house.logged
        assert 3 == served.front.state.total_requests
        assert (0 if stage is Stage.LEGACY else 3) == house.judge.trials
        assert house.judge.trials == house.leaf.channels.count("VirtualChannel")


@pytest.mark.parametrize("stage", STAGES)
@on_loop
async def test_what_is_owed_is_answered_and_shadowed(stage: Stage) -> None:
    """
    A request that was accepted before the stop is answered, and observed, within the drain.
    """
    house = House(stage)
    async with house.serving() as served:
        client = await served.connect()
        await client.send(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: house.leaf.waiting)
        served.front.stop_accepting()
        draining = asyncio.ensure_future(served.front.drain(5))
        await asyncio.sleep(0)
        house.shadows.replicate = False  # it would wait for somebody to answer it

        assert not draining.done()
        house.leaf.waiting[0].write(b"owed")
        house.leaf.waiting[0].finish()
        assert b"owed" in await client.rest()
        assert await draining
        await house.shadows.settled()
        assert (stage is not Stage.LEGACY) == (house.judge.trials == 1)
