"""
What only the hot road has: requests that are watched without a dispatcher in between.
"""

from __future__ import annotations

import asyncio

import pytest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from bridge.dispatch import Dropped
from bridge.dispatch.watch import Observed
from bridge.parity.observe import Ending
from bridge.routing import Effects, Stage
from tests.dispatch.conftest import alive, answering


class Leaf(Resource):
    """
    Legacy code as it is.
    """

    isLeaf = True

    def __init__(self, say):
        super().__init__()
        self.render = say


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


CANARY = {"match": "POST /a", "stage": Stage.CANARY, "weight": 0.0, "effects": Effects.EXTERNAL}


def test_nobody_watches_what_nobody_shadows(straight_house, play):
    """
    At stage legacy nothing is made for a request: no scope, no tape, no recorder.
    """

    async def story():
        h = straight_house(stage=Stage.LEGACY)
        asked = []
        h.straight._road = type(h.straight._road)(h.straight.site, h.straight._road.decide, asked.append)

        assert (200, b"x") == await h.get()
        assert [] == asked

    play(story())


def test_the_wire_is_the_same(straight_house, play):
    """
    A route that goes from legacy into shadow is answered with the same bytes, on the same
    road. It went behind ASGI before.
    """

    async def story():
        heard = []
        for stage in (Stage.LEGACY, Stage.SHADOW):
            h = straight_house(stage=stage)
            h.straight.site.displayTracebacks = False
            wire = h.straight.connect()
            wire.protocol.data_received(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
            await wire.over.wait()
            wire.close()
            await h.shadows.settled()
            heard.append([line for line in wire.raw.split(b"\r\n") if not line.startswith(b"Date:")])
        assert heard[0] == heard[1]
        assert any(line.startswith(b"Server: TwistedWeb/") for line in heard[1])

    play(story())


def test_the_shadow_gets_uvicorns_scope(straight_house, play):
    """
    What a shadow is given is the scope that uvicorn would have made, but for what names
    the route's stage.
    """

    async def story():
        modern = answering(b"x")
        requests = [
            b"GET /a?b=%C3%A9 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
            b"GET http://y/a HTTP/1.0\r\n\r\n",
            b"HEAD /%61 HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n",
        ]
        for stage in (Stage.SHADOW, Stage.MODERN):
            h = straight_house(modern=modern, stage=stage)
            for request in requests:
                wire = h.straight.connect()
                wire.protocol.data_received(request)
                # The parser of answers waits for HEAD's body.
                await wire.wrote.wait()
                wire.close()
                await h.shadows.settled()
                await turns()
        for shadowed, straight in zip(modern.calls[:3], modern.calls[3:], strict=True):
            for scope in (shadowed, straight):
                scope["extensions"] = sorted(
                    set(scope["extensions"]) - {"bgserver.shadow", "bgserver.effects"}
                )
            assert straight == shadowed

    play(story())


@pytest.mark.parametrize("stage, ending", [(Stage.SHADOW, Ending.RAISED), (Stage.CANARY, None)])
def test_what_escapes_the_application(straight_house, play, stage, ending):
    """
    An exception that legacy's own Request doesn't answer ends the connection, is observed
    as raised, and counts as an error of a canary.
    """

    class Broken(Request):
        def process(self):
            raise ZeroDivisionError

    async def story():
        route = CANARY if stage is Stage.CANARY else {"match": "POST /a", "effects": Effects.NONE}
        h = straight_house(**route)
        h.straight.site.requestFactory = Broken
        wire = h.straight.connect()
        wire.protocol.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
        await wire.over.wait()
        await turns()
        await h.shadows.settled()

        assert b"" == wire.raw
        if ending is None:
            assert [("POST /a", 599)] == h.bench.answers
        else:
            [trial] = h.bench.trials
            assert (ending, "ZeroDivisionError") == (trial.answer.ending, trial.answer.error)
            assert b"ab" == trial.request.body

    play(story())


def test_a_client_that_leaves(straight_house, play):
    """
    Who doesn't wait for the answer is observed as having left, and isn't counted against
    anybody.
    """

    async def story():
        for route in ({"match": "POST /a", "effects": Effects.NONE}, CANARY):
            h = straight_house(**route)
            h.straight.site.resource = Leaf(lambda request: NOT_DONE_YET)
            wire = h.straight.connect()
            wire.protocol.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            wire.close()
            await turns()
            await h.shadows.settled()

            assert [Ending.LEFT] * len(h.bench.trials) == [t.answer.ending for t in h.bench.trials]
            assert [] == h.bench.answers
            assert (route is not CANARY) == bool(h.bench.trials)

    play(story())


def test_an_application_that_hangs_up(straight_house, play):
    """
    Legacy code that closes the connection within its answer is observed as the error that
    it is behind ASGI, where its replicate runs.
    """

    def hangs_up(request):
        request.write(b"half")
        request.loseConnection()
        return NOT_DONE_YET

    async def story():
        h = straight_house(replicate=True)
        h.straight.site.resource = Leaf(hangs_up)
        wire = h.straight.connect()
        wire.protocol.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await turns()
        await h.shadows.settled()

        [trial] = h.bench.trials
        assert (Ending.RAISED, "ConnectionAbortedError") == (trial.answer.ending, trial.answer.error)

    play(story())


def test_a_refused_head(straight_house, play):
    """
    A head that the Site's channel refuses is an answer too: 400.
    """

    async def story():
        h = straight_house()
        wire = h.straight.connect()
        wire.protocol.data_received(b"GET /a HTTP/1.1\r\n" + b"x-a: 1\r\n" * 501 + b"\r\n")
        await turns()
        await h.shadows.settled()

        assert wire.raw.startswith(b"HTTP/1.1 400 ")
        assert [(400, Ending.COMPLETE)] == [(t.answer.status, t.answer.ending) for t in h.bench.trials]

    play(story())


def test_requests_in_a_line_are_seen_apart(straight_house, play):
    """
    Each of several pipelined requests has its own body, effects and observation.
    """

    async def echo(scope, receive, send):
        body = (await receive())["body"]
        if effects := scope["extensions"].get("bgserver.effects"):
            effects("row", body.decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def story():
        h = straight_house(echo, echo, match="POST /a", effects=Effects.NONE)
        wire = h.straight.connect()
        wire.protocol.data_received(
            b"".join(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n" + part for part in (b"1", b"2", b"3"))
        )
        await h.bench.hear(3)
        wire.close()
        await h.shadows.settled()

        assert [b"1", b"2", b"3"] == [t.request.body for t in h.bench.trials]
        for trial in h.bench.trials:
            assert trial.request.body == trial.answer.prefix == trial.other.prefix
            assert trial.answer.effects == trial.other.effects
            assert 0 <= trial.answer.latency < 60
            assert trial.request.body.decode() == trial.answer.effects[0].key

    play(story())


def test_a_stream_with_a_body_is_offered_while_it_runs(straight_house, play):
    """
    The body of a request is known to be whole when its answer begins, not when it ends.
    """

    async def story():
        h = straight_house(match="POST /a", effects=Effects.NONE, stream=True)

        def streams(request):
            for n in range(3):
                request.write(b"data: %d\n\n" % n)
            return NOT_DONE_YET

        h.straight.site.resource = Leaf(streams)
        wire = h.straight.connect()
        wire.protocol.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
        await turns()
        await h.shadows.settled()

        assert [] == h.bench.drops
        [trial] = h.bench.trials
        assert (b"ab", Ending.ENOUGH) == (trial.request.body, trial.answer.ending)
        wire.close()

    play(story())


def test_latency_counts_from_a_requests_turn(straight_house, play):
    """
    What a request waits behind another on its connection is not its handler's time.
    """
    now = [0.0]

    async def story():
        h = straight_house()
        waiting = []
        h.straight.site.resource = Leaf(lambda request: waiting.append(request) or NOT_DONE_YET)
        h.dispatcher.clock = lambda: now[0]
        wire = h.straight.connect()
        wire.protocol.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        for seconds in (5.0, 2.0):
            now[0] += seconds
            waiting.pop().finish()
        wire.close()
        await h.shadows.settled()

        assert [5.0, 2.0] == [trial.answer.latency for trial in h.bench.trials]

    play(story())


@pytest.mark.parametrize(
    "said",
    [
        b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: b\r\n folded\r\n\r\n",
    ],
)
def test_what_asgi_has_no_words_for(straight_house, play, said):
    """
    A request that only Twisted understands is answered by legacy as ever, and counted as
    one that went by unobserved.
    """

    async def story():
        h = straight_house(match="GET,BREW /{a}", effects=Effects.NONE)
        wire = h.straight.connect()
        wire.protocol.data_received(said)
        await wire.over.wait()
        wire.close()
        await h.shadows.settled()

        assert 200 == wire.status
        assert [Dropped.FOREIGN] == [why for _, why in h.bench.drops]
        assert [] == h.bench.trials

    play(story())


def test_an_upgrade_is_not_watched(straight_house, play):
    """
    Nobody can answer a websocket twice: it is legacy's, unseen.
    """

    async def story():
        h = straight_house()
        wire = h.straight.connect()
        wire.protocol.data_received(
            b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await wire.over.wait()
        wire.close()
        await h.shadows.settled()

        assert ([], []) == (h.bench.trials, h.bench.drops)

    play(story())


def test_judging_that_breaks_breaks_no_answer(straight_house, play, caplog):
    """
    An error of ours behind an answer is logged, and the connection goes on.
    """

    async def story():
        h = straight_house()
        h.shadows.circuits = None  # which offering asks
        wire = h.straight.connect()
        for _ in range(2):
            wire.over.clear()
            wire.protocol.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            await wire.over.wait()
        wire.close()

        assert 2 == wire.raw.count(b"HTTP/1.1 200 OK")

    play(story())
    assert 2 == caplog.text.count("was answered, but not shadowed")


def test_nothing_is_kept(straight_house, play):
    """
    After many watched requests none of what watched them is left.
    """

    async def story():
        h = straight_house()
        before = alive(Observed)
        for _ in range(50):
            await h.get()
        await h.shadows.settled()
        h.bench.trials.clear()
        await turns()

        assert before == alive(Observed)

    play(story())
