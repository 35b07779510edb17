"""
One request's way through the dispatcher, with real applications in process.
"""

from __future__ import annotations

import asyncio

import pytest

from bridge.dispatch import Dropped, Limits
from bridge.dispatch.asks import ScopeAsks
from bridge.dispatch.dispatcher import LifespanRefused
from bridge.parity.observe import Ending
from bridge.routing import Effects, Route, RouteTable, Side, Stage
from tests.dispatch.conftest import answering


def test_legacy_answers_unseen(asgi_house, play):
    """
    At stage legacy the side's application gets the very objects that the server gave.
    """
    seen = []

    async def legacy(scope, receive, send):
        seen.append((scope, receive, send))

    async def story():
        h = asgi_house(legacy, stage=Stage.LEGACY)
        given = ({"type": "http", "method": "GET", "path": "/a", "raw_path": b"/a"}, None, None)
        await h.dispatcher(*given)
        assert all(a is b for a, b in zip(seen[0], given, strict=True))

    play(story())


def test_shadow_never_answers(house, play):
    """
    In the shadow stage the client hears legacy; modern is observed afterwards.
    """

    async def story():
        h = house(answering(b"old"), answering(b"new", 201))

        answer = await h.get()
        await h.shadows.settled()

        assert (200, b"old") == answer
        [trial] = h.bench.trials
        assert (200, b"old") == (trial.answer.status, trial.answer.prefix)
        assert (201, b"new") == (trial.other.status, trial.other.prefix)
        assert Ending.COMPLETE is trial.answer.ending

    play(story())


def test_live_shadows_legacy(house, play):
    """
    Live is the shadow stage the other way round.
    """

    async def story():
        h = house(answering(b"old"), answering(b"new"), stage=Stage.LIVE)

        answer = await h.get()
        await h.shadows.settled()

        assert (200, b"new") == answer
        assert b"old" == h.bench.trials[0].other.prefix

    play(story())


def test_shadow_runs_after_the_answer(house, play):
    """
    Nothing of the shadow has run when the client has its last byte.
    """

    async def story():
        modern = answering(b"new")
        h = house(answering(b"old"), modern)

        await h.get()
        before = len(modern.calls)
        await h.shadows.settled()

        assert (0, 1) == (before, len(modern.calls))

    play(story())


def test_body_is_teed(house, play):
    """
    The shadow reads the body that the answering side read.
    """

    async def echo(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body})

    async def story():
        h = house(echo, echo, match="POST /a", effects=Effects.NONE)

        await h.messages("POST", "/a", [b"one", b"", b"two"])
        await h.shadows.settled()

        [trial] = h.bench.trials
        assert (b"onetwo", b"onetwo") == (trial.answer.prefix, trial.other.prefix)

    play(story())


@pytest.mark.parametrize(
    "body, headers, why",
    [
        ([b"x" * 11], [], Dropped.LONG_BODY),
        ([b"x" * 6, b"x" * 6, b""], [], Dropped.LONG_BODY),
    ],
)
def test_long_bodies_are_not_kept(house, play, body, headers, why):
    """
    A body past the tape's limit is not held, and the request is counted as unseen.
    """

    async def story():
        h = house(match="POST /a", effects=Effects.NONE, limits=Limits(body=10))

        await h.messages("POST", "/a", body, headers)
        await h.shadows.settled()

        assert [("POST /a", why)] == h.bench.drops
        assert [] == h.bench.trials

    play(story())


def test_unread_bodies_are_not_guessed(asgi_house, play):
    """
    Where the answering side left the body unread, there is nothing to replay.
    """

    async def refuses(scope, receive, send):
        await send({"type": "http.response.start", "status": 415})
        await send({"type": "http.response.body"})

    async def story():
        h = asgi_house(refuses, match="POST /a", effects=Effects.NONE)

        await h.messages("POST", "/a", [b"12"], [(b"content-length", b"2")])
        await h.messages("POST", "/a", [b""], [(b"content-length", b"0")])
        await h.shadows.settled()

        assert [("POST /a", Dropped.UNREAD_BODY)] == h.bench.drops
        assert 1 == len(h.bench.trials)

    play(story())


def test_scopes_are_separate(asgi_house, play):
    """
    What the answering side writes into its scope, state or extensions is not seen by
    the shadow.
    """

    async def legacy(scope, receive, send):
        scope["session"] = {"user": "me"}
        scope.setdefault("state", {})["x"] = 1
        scope["headers"].append((b"x-added", b"1"))
        await answering(b"x")(scope, receive, send)

    async def story():
        modern = answering(b"x")
        h = asgi_house(legacy, modern)

        await h.get(headers=[])
        await h.shadows.settled()

        [scope] = modern.calls
        assert "session" not in scope and "state" not in scope
        assert [] == scope["headers"]
        assert "bgserver.shadow" in scope["extensions"]

    play(story())


def test_effects_are_recorded_on_both_sides(house, play):
    """
    Both sides may say what they did, through the extension; only a shadow is marked.
    """

    def app(value, marked):
        async def inner(scope, receive, send):
            marked.append("bgserver.shadow" in scope["extensions"])
            scope["extensions"]["bgserver.effects"]("row", "tasks:1", value)
            await answering(b"x")(scope, receive, send)

        return inner

    async def story():
        marked = []
        h = house(app("a", marked), app("b", marked))

        await h.get()
        await h.shadows.settled()

        [trial] = h.bench.trials
        assert ["a"] == [e.value for e in trial.answer.effects]
        assert ["b"] == [e.value for e in trial.other.effects]
        assert [False, True] == marked

    play(story())


def test_an_answer_closes_when_its_background_work_has(house, play):
    """
    Effects after the last byte belong to the observation; the shadow doesn't wait
    for them to begin.
    """

    async def story():
        go = asyncio.Event()
        started = asyncio.Event()

        async def legacy(scope, receive, send):
            await answering(b"x")(scope, receive, send)
            await go.wait()
            scope["extensions"]["bgserver.effects"]("mail", "1")

        async def modern(scope, receive, send):
            await answering(b"x")(scope, receive, send)
            started.set()

        h = house(legacy, modern)
        request = asyncio.ensure_future(h.get())
        await started.wait()
        go.set()
        await request
        await h.shadows.settled()

        [trial] = h.bench.trials
        assert ["mail"] == [e.kind for e in trial.answer.effects]

    play(story())


def test_an_exception_reaches_the_server(asgi_house, play):
    """
    A handler's exception is the server's to answer, and is observed as such.
    """

    async def breaks(scope, receive, send):
        raise ZeroDivisionError

    async def story():
        h = asgi_house(breaks)

        with pytest.raises(ZeroDivisionError):
            await h.get()
        await h.shadows.settled()

        answer = h.bench.trials[0].answer
        assert (Ending.RAISED, "ZeroDivisionError") == (answer.ending, answer.error)

    play(story())


def test_a_client_that_left_is_no_fault(asgi_house, play):
    """
    A send that fails because the client went is neither seen nor held against a side.
    """

    async def gone(message):
        raise OSError("gone")

    async def waits(scope, receive, send):
        await receive()
        await receive()
        await send({"type": "http.response.start", "status": 200})

    async def story():
        h = asgi_house(waits)

        with pytest.raises(OSError):
            await h.messages("GET", "/a", send=gone)
        await h.shadows.settled()

        answer = h.bench.trials[0].answer
        assert (None, Ending.LEFT) == (answer.status, answer.ending)

    play(story())


def test_streams_are_compared_by_their_first_events(house, play):
    """
    A stream without an end is shadowed as soon as it has shown enough, and its
    shadow is ended there too, whether it listens for the client or not.
    """

    async def story():
        stop = asyncio.Event()

        async def legacy(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            for n in range(3):
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % n, "more_body": True})
            await stop.wait()
            await send({"type": "http.response.body"})

        async def modern(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})
            n = 0
            while True:
                await send({"type": "http.response.body", "body": b"data: %d\n\n" % n, "more_body": True})
                n += 1

        h = house(legacy, modern, stream=True)
        request = asyncio.ensure_future(h.get())
        await h.bench.hear()
        await h.shadows.settled()
        open_ = not request.done()
        stop.set()
        await request

        [trial] = h.bench.trials
        assert open_
        assert (Ending.ENOUGH, Ending.ENOUGH) == (trial.answer.ending, trial.other.ending)
        assert trial.answer.digest == trial.other.digest

    play(story())


def test_websockets_have_no_shadow(asgi_house, play):
    """
    A websocket goes to the side that the route's stage names, and to no other.
    """
    heard = []

    def app(side):
        async def inner(scope, receive, send):
            heard.append(side)

        return inner

    async def story():
        h = asgi_house(app(Side.LEGACY), app(Side.MODERN), stage=Stage.LIVE)
        await h.dispatcher({"type": "websocket", "path": "/a", "raw_path": b"/a"}, None, None)
        await h.shadows.settled()

    play(story())
    assert [Side.MODERN] == heard


def test_lifespan_is_refused(asgi_house, play):
    """
    The applications' lifespans belong to whoever put the server together.
    """

    async def story():
        with pytest.raises(LifespanRefused, match="lifespan off"):
            await asgi_house().dispatcher({"type": "lifespan"}, None, None)

    play(story())


def test_an_external_canary_is_watched(asgi_house, play):
    """
    Where nothing may shadow, a canary is judged by the statuses of its answers.
    """

    async def breaks(scope, receive, send):
        raise ZeroDivisionError

    async def story():
        h = asgi_house(
            match="POST /a", modern=breaks, stage=Stage.CANARY, weight=100.0,
            effects=Effects.EXTERNAL,
        )  # fmt: skip
        with pytest.raises(ZeroDivisionError):
            await h.messages("POST", "/a")

        assert [("POST /a", 599)] == h.bench.answers

    play(story())


@pytest.mark.parametrize("status", [200, 503])
def test_an_external_canarys_legacy_share_is_watched(house, play, status):
    """
    What legacy answers meanwhile is counted too, for modern's errors to be weighed
    against. On the hot road nobody counted it.
    """

    async def story():
        h = house(
            answering(b"x", status), match="POST /a", stage=Stage.CANARY, weight=0.0,
            effects=Effects.EXTERNAL,
        )  # fmt: skip
        await h.messages("POST", "/a")

        assert [("POST /a", status)] == h.bench.answers
        assert [] == h.bench.trials

    play(story())


def test_who_leaves_an_external_canary_is_no_error(asgi_house, play):
    """
    A client that went before the answer says nothing about it.
    """

    async def waits(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def story():
        h = asgi_house(waits, match="POST /a", stage=Stage.CANARY, weight=0.0, effects=Effects.EXTERNAL)
        await h.messages("POST", "/a")

        assert [] == h.bench.answers

    play(story())


def test_a_path_without_its_raw_form_is_found(asgi_house, play):
    """
    Servers may leave raw_path out, or leave the query in it.
    """

    async def story():
        h = asgi_house(answering(b"old"), answering(b"new"), match="GET /a/{b}", stage=Stage.MODERN)
        heard = []
        for more in ({"path": "/a/50%"}, {"path": "/a/b", "raw_path": b"/a/b?c=/d"}):
            sent = []

            async def send(message, sent=sent):
                sent.append(message)

            async def receive():
                return {"type": "http.request"}

            await h.dispatcher({"type": "http", "method": "GET", **more}, receive, send)
            heard.append(sent[1]["body"])
        assert [b"new", b"new"] == heard

    play(story())


def test_a_decision_that_was_made_is_kept(asgi_house, play):
    """
    Where the server has asked the table already, nobody asks again: dice are thrown
    once, and a swap in between changes nothing.
    """

    async def story():
        h = asgi_house(answering(b"old"), answering(b"new"), stage=Stage.MODERN)
        made = h.dispatcher.table.value.decide(b"GET", b"/a", ScopeAsks({}))
        h.dispatcher.table.swap(RouteTable.build([Route("GET /a")]))
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/a", "extensions": {"bgserver.decision": made}}
        await h.dispatcher(scope, receive, send)

        assert b"new" == sent[1]["body"]

    play(story())
