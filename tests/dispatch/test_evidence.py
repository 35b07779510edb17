"""
What was observed becomes evidence, reaches the state, and moves routes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from types import SimpleNamespace

import attrs
import pytest

from bridge.config import GateConfig, RouteConfig
from bridge.dispatch import Dispatcher, Limits, ShadowQueue
from bridge.dispatch.books import Book, book_of, code_identity
from bridge.dispatch.examiner import Examiner
from bridge.dispatch.keeper import Keeper
from bridge.dispatch.ledger import Batch, Key, Ledger, Totals, store_batch
from bridge.parity import Agreed, Difference, Gate, Kind, Redactor, Rules
from bridge.parity.noise import Proposal
from bridge.routing import Cell, Effects, Pattern, Route, RouteTable, Side, Stage
from tests.dispatch.conftest import House, answering
from tests.dispatch.straight import Straight

ROUTE = "GET /a"
KEY = Key(ROUTE, "i")


@attrs.define
class State:
    """
    A state database, as far as evidence goes; it can be broken.
    """

    counters: dict = attrs.field(factory=dict)
    prints: dict = attrs.field(factory=dict)
    texts: list = attrs.field(factory=list)
    rules: list = attrs.field(factory=list)
    broken: str = ""
    first: float = 1.0

    def add_counts(self, route, identity, deltas, at):
        if self.broken == "counts":
            raise OSError("the disk is full")
        mine = self.counters.setdefault((route, identity), {})
        for name, delta in deltas.items():
            mine[name] = mine.get(name, 0) + delta

    def counts(self, route, identity):
        return dict(self.counters.get((route, identity), {}))

    def first_at(self, route, identity):
        return self.first

    def add_fingerprints(self, route, identity, rows, at):
        if self.broken == "fingerprints":
            raise OSError("the disk is full")
        for name, _, _, count in rows:
            self.prints[name] = self.prints.get(name, 0) + count

    def add_sample(self, route, identity, fingerprint, text, at):
        self.texts.append((fingerprint, text))

    def propose(self, route, rule, owner, expires, share, pairs):
        self.rules.append((route, rule, owner, share))

    async def write(self, batch):
        await asyncio.sleep(0)
        return store_batch(self, batch, 5.0)


@attrs.define
class Town:
    """
    One process: a house, its examiner and its keeper; the breaker and the seat.
    """

    house: House
    examiner: Examiner
    keeper: Keeper
    state: State
    moves: list = attrs.field(factory=list)
    seated: bool = True
    entered: float = 0.0
    by_a_person: bool = False
    evidence: dict = attrs.field(factory=dict)

    def demote(self, route, stage, why):
        table = self.house.dispatcher.table
        if table.value.route(route).stage is stage:
            self.moves.append((stage, Stage.LEGACY, why))
            self._swap(Stage.LEGACY)

    def held(self):
        return self.seated

    def since(self, route):
        return self.entered

    def taken_back(self, route):
        return self.by_a_person

    async def move(self, route, expect, to, why, evidence):
        self.moves.append((expect, to, why))
        self.evidence = json.loads(evidence)
        self._swap(to)
        return True

    def _swap(self, stage):
        table = self.house.dispatcher.table
        [route] = table.value.routes
        table.swap(RouteTable.build([attrs.evolve(route, stage=stage)]))

    async def traffic(self, count=1):
        for n in range(count):
            await self.house.get(f"/{n}" if "{" in self.route.name else "/a")
            await self.house.shadows.settled()

    @property
    def route(self):
        return self.house.dispatcher.table.value.routes[0]


@pytest.fixture(params=["asgi", "straight"])
def town(request):
    """
    Build it, with real applications, on either road.
    """

    def build(legacy=None, modern=None, route=None, state=None, replicate=True, gate=None, **book):
        route = route or Route(ROUTE, Stage.SHADOW)
        sides = {Side.LEGACY: legacy or answering(b"x"), Side.MODERN: modern or answering(b"x")}
        table = Cell(RouteTable.build([route]))
        queue = ShadowQueue(sides, None, Limits(), replicate=replicate)
        state = state or State()
        examiner = Examiner(
            {route.name: Book(route.name, "i", auto=True, effects=route.effects, **book)},
            Ledger(),
            Gate(gate or GateConfig(floor=0.0)),
            Redactor(b"k" * 16),
            None,
            lambda: 100.0,
        )
        queue.judge = examiner
        keeper = Keeper(table, examiner, state, None, lambda: 100.0)
        dispatcher = Dispatcher(table, sides, queue)
        straight = Straight(dispatcher) if request.param == "straight" else None
        made = Town(House(dispatcher, None, straight), examiner, keeper, state)
        examiner.breaker = keeper.seat = made
        return made

    return build


def test_where_nothing_is_new_the_state_is_left_alone(town, play):
    """
    A server that nobody asks has nothing to store, and no route that waits for the totals of others.

    Seen to fail where each turn wrote its batch, whatever was in it.
    """
    written = []

    async def story():
        t = town(route=Route(ROUTE, Stage.MODERN))
        t.keeper.sink = SimpleNamespace(write=written.append)
        await t.keeper.turn()
        await t.keeper.turn()

    play(story())

    assert [] == written


def test_a_route_goes_from_legacy_to_live_unattended(town, play):
    """
    Under equal answers, with the evidence in the moves; and no further.
    """

    async def story():
        t = town(route=Route(ROUTE, Stage.LEGACY, weight=50.0), outcomes=(200,))
        for _ in range(8):
            await t.keeper.turn()
            await t.traffic(200)
        await t.keeper.turn()

        assert [
            (Stage.LEGACY, Stage.SHADOW),
            (Stage.SHADOW, Stage.CANARY),
            (Stage.CANARY, Stage.LIVE),
        ] == [move[:2] for move in t.moves]
        assert "i" == t.evidence["identity"]
        assert t.evidence["counts"]["canary.same"] >= 326
        stage, ruling = t.keeper.ruling(t.examiner.books[ROUTE])
        assert (Stage.LIVE, "hold") == (stage, ruling.action.value)

    play(story())


def test_a_write_between_two_runs_is_noise(town, play):
    """
    Shadows of reads run on living stores.  Where the store changed after the replicate
    and before the other side, the answering side is asked once more, and differs from
    its own answer as well.

    Fails, with ten differences, where the doubt isn't followed up.
    """
    store, order = [0], []

    def app(name):
        async def inner(scope, receive, send):
            if len(order) % 4 == 2:
                store[0] += 1  # somebody writes: the answer and the replicate have seen the old value
            order.append(name)
            await answering(b"%d" % store[0])(scope, receive, send)

        return inner

    async def story():
        t = town(app("legacy"), app("modern"))
        t.house.shadows.shuffled = lambda sides: sides.sort(key=lambda each: each.value)

        await t.traffic(10)
        await t.keeper.store()

        assert ["legacy", "legacy", "modern", "legacy"] * 10 == order
        counts = t.state.counters[ROUTE, "i"]
        assert (10, 0) == (counts["shadow.noise"], counts.get("shadow.against", 0))

    play(story())


def test_a_doubt_does_not_excuse_a_wrong_side(town, play):
    """
    Asked again, legacy says what it said before: modern is what differs.
    """

    async def story():
        t = town(answering(b"x"), answering(b"y"))
        await t.traffic(6)
        await t.keeper.store()

        assert 6 == t.state.counters[ROUTE, "i"]["shadow.different"] == t.state.counters[ROUTE, "i"]["shadow.against"]

    play(story())


@pytest.mark.parametrize("stage", [Stage.CANARY, Stage.LIVE])
def test_a_regression_goes_back_without_a_turn(town, play, stage):
    """
    Eight discordant pairs, and the route is legacy's in this process: nobody waits for
    the keeper, the lease or the database.
    """

    async def story():
        t = town(modern=answering(b"y"), route=Route(ROUTE, stage, weight=100.0))
        await t.traffic(7)
        before = list(t.moves)
        await t.traffic(1)

        assert [] == before
        assert [(stage, Stage.LEGACY)] == [move[:2] for move in t.moves]
        assert Stage.LEGACY is t.route.stage
        # And the same code isn't tried again.
        await t.keeper.turn()
        await t.keeper.turn()
        assert 1 == len(t.moves)

    play(story())


def test_evidence_that_began_anew_takes_nothing_back(town, play):
    """
    Seven discordant pairs are forgotten with the counts that they belong to: the next
    is the first, in each process that has them in its memory.

    Seen to fail with one walk for all that was ever seen of a code.
    """

    async def story():
        t = town(modern=answering(b"y"), route=Route(ROUTE, Stage.CANARY, weight=100.0))
        await t.traffic(7)
        await t.keeper.store()
        t.state.counters.clear()  # as a person's move into the shadow leaves it
        t.state.first = 50.0
        await t.keeper.store()
        await t.traffic(1)

        assert [] == t.moves
        await t.traffic(7)
        assert [Stage.LEGACY] == [move[1] for move in t.moves]

    play(story())


def test_a_shadow_that_differs_holds(town, play):
    """
    There is nothing to take back; the differences are stored, with samples of the first
    few, and ever fewer after that.
    """

    async def story():
        t = town(
            answering(b'{"a":1}', headers=[(b"content-type", b"application/json")]),
            answering(b'{"a":2}', headers=[(b"content-type", b"application/json")]),
        )
        await t.traffic(20)
        await t.keeper.turn()
        await t.keeper.turn()

        assert [] == t.moves
        [(fingerprint, count)] = t.state.prints.items()
        assert 20 == count == t.state.counters[ROUTE, "i"]["shadow.different"]
        assert 6 == len(t.state.texts)  # the 1st, 2nd, 3rd, 4th, 8th and 16th
        sample = json.loads(t.state.texts[0][1])
        assert [fingerprint] == [d["fingerprint"] for d in sample["differences"]]
        assert "curl -i http://127.0.0.1:8000/a" == sample["curl"]
        assert 1 == t.state.counters[ROUTE, "i"]["rejected"]
        _, ruling = t.keeper.ruling(t.examiner.books[ROUTE])
        assert ruling.why.startswith("rejected: 20 of 20 pairs differ")

    play(story())


def test_live_samples_tell_who_is_who(town, play):
    """
    In live the answer is modern's; a sample says so, and sets the sides right.
    """

    async def story():
        t = town(answering(b"old"), answering(b"new"), route=Route(ROUTE, Stage.LIVE))
        await t.traffic()
        await t.keeper.store()

        sample = json.loads(t.state.texts[0][1])
        assert ("modern", "old", "new") == (sample["answered"], sample["legacy"]["body"], sample["modern"]["body"])

    play(story())


def test_secrets_in_paths_are_not_stored(town, play):
    """
    A parameter whose name says so is redacted in samples and commands.
    """

    async def story():
        t = town(modern=answering(b"y"), route=Route("GET /{token}", Stage.SHADOW), secrets=("token",))
        await t.traffic()
        await t.keeper.store()

        [(_, text)] = t.state.texts
        assert "/<secret" in json.loads(text)["request"]["path"]

    play(story())


def test_only_the_seat_moves_routes(town, play):
    """
    A process without the gate's lease counts, and holds.
    """

    async def story():
        t = town(route=Route(ROUTE, Stage.LEGACY))
        t.seated = False
        await t.keeper.turn()

        assert [] == t.moves

    play(story())


def test_several_processes_add_to_one_sum(town, play):
    """
    Each sees the others' pairs, and the one that holds the gate rules on all of them.
    """

    async def story():
        state = State()
        one, two = (town(state=state) for _ in range(2))
        two.seated = False
        for _ in range(4):
            await one.traffic(50)
            await two.traffic(50)
            await two.keeper.turn()
            await one.keeper.turn()
        assert [Stage.CANARY] == [move[1] for move in one.moves]
        assert [] == two.moves

    play(story())


def test_a_broken_state_costs_no_evidence(town, play, caplog):
    """
    What couldn't be stored is offered again, what was stored isn't counted twice, and
    it is said once.
    """

    async def story():
        t = town(modern=answering(b"y"))
        for broken in ("counts", "fingerprints", "counts"):
            t.state.broken = broken
            await t.traffic(10)
            await t.keeper.turn()
            await t.keeper.turn()
        t.state.broken = ""
        await t.keeper.turn()

        assert 30 == t.state.counters[ROUTE, "i"]["shadow.different"]
        assert [30] == list(t.state.prints.values())
        assert 30 == t.examiner.ledger.totals(KEY).counts["shadow.different"]
        assert 6 == t.keeper.failures
        assert 1 == caplog.text.count("evidence waits")

    play(story())


def test_the_keeper_outlives_errors(town, play, caplog):
    """
    A move that fails is logged; the next turn comes; at the end what is left is stored.
    """

    async def story():
        t = town(route=Route(ROUTE, Stage.LEGACY))
        t.keeper.pause = 0.001
        failed = asyncio.Event()

        async def fails(*args):
            failed.set()
            raise ZeroDivisionError

        t.keeper.seat = attrs.make_class("Seat", [])()
        t.keeper.seat.held, t.keeper.seat.since, t.keeper.seat.move = lambda: True, lambda route: 0.0, fails
        t.keeper.seat.taken_back = lambda route: False
        running = asyncio.ensure_future(t.keeper.run())
        await failed.wait()
        t.examiner.ledger.add(KEY, {"shadow.same": 1})
        running.cancel()
        await asyncio.wait({running})

        assert 1 == t.state.counters[ROUTE, "i"]["shadow.same"]

    play(story())
    assert "the gate failed at GET /a" in caplog.text


def test_noise_is_proposed_to_the_state(town, play):
    """
    A place that differs by itself is proposed with its share, and learned by nobody.
    """

    async def story():
        dice = random.Random(6)

        async def noisy(scope, receive, send):
            await answering(b'{"at":%d}' % dice.randrange(10**9), headers=[(b"content-type", b"application/json")])(
                scope, receive, send
            )

        t = town(noisy, noisy, gate=GateConfig(aa=50, floor=0.0))
        await t.traffic(100)
        await t.keeper.turn()

        assert ("GET /a", "$.at", "gate", 1.0) in t.state.rules
        assert 100 == t.state.counters[ROUTE, "i"]["shadow.noise"]
        _, ruling = t.keeper.ruling(t.examiner.books[ROUTE])
        assert "needs 326 more pairs; 100 were noise" == ruling.why

    play(story())


def test_a_broken_guarantee_takes_back_at_once(town, play):
    """
    And holds a shadow where it is.
    """

    async def story():
        for stage, moves in ((Stage.LIVE, [Stage.LEGACY]), (Stage.SHADOW, [])):
            t = town(route=Route(ROUTE, stage))
            t.examiner.broke(t.route, "a sandbox wrote to the real store")
            assert moves == [move[1] for move in t.moves]
        _, ruling = t.keeper.ruling(t.examiner.books[ROUTE])
        assert "a guarantee is broken: a sandbox wrote to the real store" == ruling.why
        t.examiner.broke(Route("GET /unknown"), "x")

    play(story())


def test_an_external_canary_goes_back_by_its_errors(town, play):
    """
    Nothing can shadow it; its own errors decide.
    """

    async def fails(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body"})

    async def story():
        route = Route(ROUTE, Stage.CANARY, weight=100.0, effects=Effects.EXTERNAL)
        t = town(modern=fails, route=route)
        await t.traffic(5)

        assert [(Stage.CANARY, Stage.LEGACY, "2 of 2 answers were errors")] == t.moves
        await t.keeper.store()
        assert 2 == t.state.counters[ROUTE, "i"]["canary.errors"]

    play(story())


def test_what_no_book_knows_is_not_judged(town, play):
    """
    A route without facts costs nothing and breaks nothing.
    """

    async def story():
        t = town()
        t.examiner.books = {}
        await t.traffic()
        t.house.shadows.answered(t.house.dispatcher.table.value.decide(b"GET", b"/a", None), 500, 1.0)
        t.house.shadows.apps = {}
        await t.traffic()
        await t.keeper.turn()

        assert {} == t.state.counters

    play(story())


def test_dropped_requests_are_counted(town, play):
    """
    By their reason, under the stage.
    """

    async def story():
        t = town()
        t.house.shadows.apps = {}
        await t.traffic(2)
        await t.keeper.store()

        assert {"shadow.dropped:absent": 2} == t.state.counters[ROUTE, "i"]

    play(story())


def test_a_mark_is_no_count_of_pairs():
    """
    What a process has counted goes by names that a stage has; a rejection belongs to none.
    """
    ledger = Ledger()
    ledger.add(KEY, {"shadow.same": 2, "canary.same": 1, "rejected": 1})

    assert {"same": 3} == ledger.here[ROUTE]


def test_a_ledger_keeps_the_newest_samples():
    """
    While the state is away memory is bounded, and what was lost is counted.
    """
    ledger = Ledger(most=2)
    for n in range(3):
        ledger.keep(KEY, "f", str(n))
    batch = ledger.take([])
    ledger.keep(KEY, "f", "3")

    ledger.give_back(batch)

    assert ["2", "3"] == [text for _, _, text in ledger.take([]).samples]
    assert 2 == ledger.lost


def test_a_batch_comes_back_whole():
    """
    Counts, fingerprints and proposals that couldn't be stored join what came since.
    """
    ledger = Ledger()
    difference = Difference(Kind.VALUE, "$.a")
    older, newer = (Proposal("$.a", "o", 1.0, share, 1) for share in (0.1, 0.2))
    ledger.add(KEY, {"a": 1})
    ledger.differs(KEY, difference, difference.place)
    ledger.propose(ROUTE, older)
    batch = ledger.take([KEY])
    assert 1 == ledger.totals(KEY).counts["a"]
    ledger.add(KEY, {"a": 2})
    assert 1 == ledger.differs(KEY, difference, difference.place)
    ledger.propose(ROUTE, newer)

    ledger.give_back(batch)
    again = ledger.take([KEY])
    ledger.stored({KEY: Totals({"a": 3}, 1.0)})

    assert {KEY: {"a": 3}} == again.counts
    assert 2 == again.found[KEY][difference.fingerprint][2]
    assert [newer] == [proposal for _, proposal in again.proposals]
    assert ({"a": 3}, 1.0) == (ledger.totals(KEY).counts, ledger.totals(KEY).first_at)
    assert isinstance(again, Batch)


def test_books_follow_the_policy():
    """
    Rules, outcomes and secrets come out of a route's policy; accepted rules count until
    they expire, and change what the evidence is of.
    """
    route = RouteConfig(
        Pattern.parse("POST /reset/{token}/{id}"),
        effects=Effects.SANDBOXED,
        ignore=("$.a",),
        outcomes=(200,),
        promote="auto",
    )

    plain = book_of(route, "1", "2")
    agreed = book_of(route, "1", "2", (Agreed("$.b", "me", 10.0),), 5.0)
    expired = book_of(route, "1", "2", (Agreed("$.b", "me", 10.0),), 10.0)

    assert ("POST /reset/{token}/{id}", (200,), True, ("token",)) == (
        plain.route,
        plain.outcomes,
        plain.auto,
        plain.secrets,
    )
    assert (("$.a",), 60.0) == (plain.rules.ignore, plain.rules.moments)
    assert ("$.a", "$.b") == agreed.rules.ignore
    assert plain == expired
    assert plain.identity != agreed.identity
    assert Rules() == book_of(RouteConfig(), "1", "2").rules


def test_the_identity_of_code(tmp_path, monkeypatch):
    """
    A declared version, or a digest of the package: another line of any module is other
    code, a log file beside it isn't.
    """
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "app.py").write_text("a = 1\n")
    (tmp_path / "lone.py").write_text("a = 1\n")
    (tmp_path / "server.tac").write_text("application = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("shop", None)

    first = code_identity("shop.app:create_app")
    (package / "shop.log").write_text("x")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.py").write_text("x")
    assert first == code_identity("shop.app:create_app")
    (package / "app.py").write_text("a = 2\n")
    assert first != code_identity("shop.app:create_app")
    lone, tac = code_identity("lone:app"), code_identity("server.tac", base=tmp_path)
    (tmp_path / "lone.py").write_text("a = 2\n")
    assert lone != code_identity("lone:app")
    assert tac != code_identity("server.tac", base=tmp_path)
    assert "version 7" == code_identity("shop.app:create_app", "7")
    assert "none" == code_identity(None)
    assert code_identity("plugin:web --path .") == code_identity("plugin:web --path .")


def test_what_a_person_took_back_stays_there(town):
    """
    A rollback in the night isn't undone by the gate a second later. Seen to fail without the seat's word: the gate
    began the route's shadow again.
    """
    there = town(route=Route(ROUTE, Stage.LEGACY))
    there.by_a_person = True

    asyncio.run(there.keeper.turn())
    assert [] == there.moves
    assert "a person took it back" in there.keeper.ruling(there.examiner.books[ROUTE])[1].why

    there.by_a_person = False
    asyncio.run(there.keeper.turn())
    assert [Stage.SHADOW] == [to for _, to, _ in there.moves]
