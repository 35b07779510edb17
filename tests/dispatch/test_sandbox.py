"""
Writes are shadowed on copies: both sides' second instances run, effects are compared,
and the real stores are left alone.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from bridge.dispatch import Dispatcher, Dropped, ShadowQueue
from bridge.dispatch.sandbox import Pace, Sandbox, SandboxFeed, copies_of
from bridge.dispatch.sandbox.copies import SandboxError
from bridge.parity import Kind, Rules, Verdict, judge
from bridge.routing import Cell, Effects, Route, RouteTable, Side, Stage
from tests.dispatch.conftest import Bench, House
from tests.dispatch.straight import Straight

SCHEMA = """
    CREATE TABLE IF NOT EXISTS users (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
                        email TEXT UNIQUE, photo BLOB, created_at TEXT);
    CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, user_id TEXT, status TEXT);
"""


@attrs.define(eq=False)
class Office:
    """
    A small application that writes rows and mails; its faults can be planted.
    """

    home: Path
    fault: str = ""
    real: Path | None = None
    starts: int = 0

    async def start(self):
        self.starts += 1
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "outbox").mkdir(exist_ok=True)
        with closing(sqlite3.connect(self.home / "jobs.db")) as db:
            db.executescript(SCHEMA)
        return self

    async def stop(self):
        pass

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, answer = self.act(scope["method"], scope["path"], body)
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def act(self, method, path, body):
        home = self.real if self.fault == "leak" else self.home
        with closing(sqlite3.connect(home / "jobs.db")) as db:
            if method == "DELETE":
                task = path.rpartition("/")[2]
                done = db.execute("UPDATE tasks SET status = 'CANCELLED' WHERE id = ?", (task,)).rowcount
                db.commit()
                return (200, {"id": task}) if done else (404, {})
            email = json.loads(body)["email"] + ("-leaked" if self.fault == "leak" else "")
            user, task = str(uuid.uuid4()), str(uuid.uuid4())
            at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            try:
                db.execute(
                    "INSERT INTO users (id, email, photo, created_at) VALUES (?, ?, ?, ?)", (user, email, b"\xff", at)
                )
            except sqlite3.IntegrityError:
                return 409, {"error": "conflict"}
            db.execute("INSERT INTO tasks VALUES (?, ?, 'PENDING')", (task, user))
            if self.fault == "double":
                db.execute("INSERT INTO tasks VALUES (?, ?, 'PENDING')", (str(uuid.uuid4()), user))
            db.execute("UPDATE tasks SET status = 'SUCCESS' WHERE id = ?", (task,))
            db.commit()
        if self.fault != "silent":
            (home / "outbox" / f"{task}.eml").write_text(f"To: {email}\n\nHello {user}\n")
        return 201, {"user_id": user, "task_id": task}


@attrs.define
class Town:
    """
    A house with sandboxes.
    """

    house: House
    feed: SandboxFeed
    offices: dict[str, Office]
    broken: list[tuple[str, str]]

    async def register(self, email="a@x"):
        answer = await self.house.messages("POST", "/register", [json.dumps({"email": email}).encode()])
        return json.loads(answer[1]["body"])

    async def settled(self):
        await self.feed.settled()

    def judged(self, n=-1):
        trial = self.house.bench.trials[n]
        return judge(
            trial.answer, trial.other, trial.replicate, trial.decision.answers is Side.MODERN,
            Rules(moments=60.0), own_ids=True, stored=trial.stored,
        )  # fmt: skip


@pytest.fixture(params=["asgi", "straight"])
def town(tmp_path, request):
    """
    Build it, on either road: both sides on one real store, each with a sandbox of its own.
    """

    async def build(fault="", stage=Stage.SHADOW, both=True, wanted=True):
        real = Office(tmp_path / "real")
        await real.start()
        broken: list = []
        offices = {
            "legacy": Office(tmp_path / "legacy"),
            "modern": Office(tmp_path / "modern", fault, tmp_path / "real"),
        }
        bench = Bench()
        queue = ShadowQueue({}, bench, shuffled=lambda sides: None)
        sandboxes = {}
        for side in Side if both else [Side.MODERN]:
            declared = {
                "data": side.value,
                "copies": [
                    {"sqlite": "real/jobs.db", "to": f"{side.value}/jobs.db"},
                    {"mail": "real/outbox", "to": f"{side.value}/outbox"},
                ],
            }
            settings, copies = copies_of(declared, tmp_path, f"{side.value}.sandbox")
            assert {"data": side.value} == settings
            sandboxes[side] = Sandbox(offices[side.value], copies)
        pace = Pace(quiet=0.01, settle=0.1, look=0.001, again=0.0, longest=0.0)
        feed = SandboxFeed(queue, sandboxes, lambda route, why: broken.append((route.name, why)), pace, wanted)
        queue.feed = feed
        routes = [
            Route("POST /register", stage, effects=Effects.SANDBOXED),
            Route("DELETE /task/{id}", stage, effects=Effects.SANDBOXED),
        ]
        dispatcher = Dispatcher(Cell(RouteTable.build(routes)), {Side.LEGACY: real, Side.MODERN: real}, queue)
        straight = Straight(dispatcher) if request.param == "straight" else None
        built = Town(House(dispatcher, bench, straight), feed, offices, broken)
        feed.start()
        await built.settled()
        return built

    return build


def rows(home: Path, table: str) -> int:
    with closing(sqlite3.connect(home / "jobs.db")) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_effects_of_two_sandboxes_are_the_same(town, play, tmp_path):
    """
    Rows with other ids and times, blobs and mails of two runs are the same; the real
    store has the one write that was asked for.
    """

    async def story():
        t = await town()

        await t.register()
        await t.settled()

        judged = t.judged()
        assert () == judged.differences
        assert Verdict.SAME is judged.verdict
        ours, theirs = t.house.bench.trials[0].stored
        assert {"row", "mail"} == {effect.kind for effect in ours}
        assert 3 == len(ours) == len(theirs)
        assert (1, 1, 1) == tuple(rows(tmp_path / home, "users") for home in ("real", "legacy", "modern"))
        assert 1 == len(list((tmp_path / "real" / "outbox").iterdir()))
        assert [] == t.broken
        await t.feed.close()

    play(story())


@pytest.mark.parametrize(
    "fault, expected",
    [
        ("silent", (Kind.EFFECT_MISSING, "effect:mail:outbox")),
        ("double", (Kind.EFFECT_ADDED, "effect:row:tasks")),
    ],
)
@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.LIVE])
def test_faults_in_effects_are_seen(town, play, fault, expected, stage):
    """
    A mail that isn't sent and a row too many are differences although the answers are
    the same, in both directions.
    """

    async def story():
        t = await town(fault, stage)

        await t.register()
        await t.settled()

        judged = t.judged()
        assert expected in [(d.kind, d.path) for d in judged.differences]
        assert Verdict.DIFFERENT is judged.verdict
        await t.feed.close()

    play(story())


def test_a_planted_leak_is_caught(town, play, tmp_path):
    """
    A sandbox that writes to the real store breaks a guarantee: it is known by an id
    that only the sandbox could know, and the row is named.
    """

    async def story():
        t = await town("leak")

        await t.register()
        await t.settled()

        [(route, why)] = t.broken
        assert 2 == rows(tmp_path / "real", "users")
        assert "POST /register" == route
        assert why.startswith("the sandbox of modern wrote to the real store: ")
        await t.feed.close()

    play(story())


def test_requests_speak_the_sandboxes_ids(town, play):
    """
    A later write names a task by its real id; each sandbox hears its own.
    """

    async def story():
        t = await town()

        made = await t.register()
        await t.settled()
        await t.house.messages("DELETE", f"/task/{made['task_id']}")
        await t.settled()

        trial = t.house.bench.trials[1]
        assert (200, 200, 200) == (trial.answer.status, trial.other.status, trial.replicate.status)
        assert Verdict.SAME is t.judged().verdict
        assert made["task_id"].encode() not in trial.other.prefix
        await t.feed.close()

    play(story())


def test_writes_are_run_in_the_order_of_their_answers(town, play):
    """
    One at a time, and each on the data that the one before left.
    """

    async def story():
        t = await town()

        for n in range(20):
            await t.register(f"{n % 10}@x")
        await t.settled()

        statuses = [[o.status for o in (x.answer, x.other, x.replicate)] for x in t.house.bench.trials]
        assert [[201] * 3] * 10 + [[409] * 3] * 10 == statuses
        assert {Verdict.SAME} == {t.judged(n).verdict for n in range(20)}
        await t.feed.close()

    play(story())


def test_drifted_copies_are_made_anew(town, play, tmp_path):
    """
    Where a side and its own second instance answer differently again and again, the
    copies no longer stand where the stores do.
    """

    async def story():
        t = await town()
        with closing(sqlite3.connect(tmp_path / "real" / "jobs.db")) as db:
            for n in range(3):
                db.execute("INSERT INTO users (id, email) VALUES (?, ?)", (str(uuid.uuid4()), f"{n}@x"))
            db.commit()

        for n in range(3):
            await t.register(f"{n}@x")
            await t.settled()
        assert 2 == t.feed.seedings
        await t.register("0@x")
        await t.settled()

        assert [409, 409] == [t.house.bench.trials[-1].answer.status, t.house.bench.trials[-1].other.status]
        assert 2 == t.offices["modern"].starts
        assert Verdict.NOISE is t.judged(0).verdict
        await t.feed.close()

    play(story())


def test_a_write_that_went_by_is_made_up_for(town, play):
    """
    A dropped write leaves the copies behind: what came before it is still run, what
    comes after it isn't, and then the copies are made anew.
    """

    async def story():
        t = await town()
        t.feed.pace = attrs.evolve(t.feed.pace, waiting=1)

        for n in range(4):
            await t.register(f"{n}@x")
        dropped = [why for _, why in t.house.bench.drops]
        await t.settled()
        seen = len(t.house.bench.trials)
        await t.register("5@x")
        await t.settled()

        assert [Dropped.FULL, Dropped.UNSEEDED] == dropped[:2]
        assert {Dropped.UNSEEDED} == set(dropped[1:])
        assert (4 - len(dropped), 2) == (seen, t.feed.seedings)
        assert [Verdict.SAME] * 2 == [t.judged(n).verdict for n in range(2)]
        await t.feed.close()

    play(story())


def test_one_sandbox_alone(town, play):
    """
    With the other side's alone, answers are compared, and effects aren't.
    """

    async def story():
        t = await town(both=False)

        await t.register()
        await t.settled()

        trial = t.house.bench.trials[0]
        assert (None, None) == (trial.replicate, trial.stored)
        assert Verdict.SAME is t.judged().verdict
        await t.feed.close()

    play(story())


def test_a_hung_sandbox_holds_no_answer_up(town, play):
    """
    The client has its answer; the copies are made anew, since nobody knows what the
    hung one will still do.
    """

    async def story():
        t = await town()
        t.house.shadows.limits = attrs.evolve(t.house.shadows.limits, deadline=0.01, grace=0.01, linger=0.01)
        stuck = asyncio.Event()

        class Hung(Office):
            async def __call__(self, scope, receive, send):
                await stuck.wait()

        t.feed.sandboxes[Side.MODERN].app = Hung(t.offices["modern"].home)
        await t.register()
        await t.settled()

        assert 2 == t.feed.seedings
        assert "deadline" == t.house.bench.trials[0].other.ending.value
        await t.feed.close()
        await t.house.shadows.close()

    play(story())


@pytest.mark.parametrize(
    "given, words",
    [
        ("x", "must be a table"),
        ({"sqlite": "a.db"}, "`to`"),
        ({"sqlite": "a.db", "folder": "b", "to": "c"}, "one of"),
        ({"sqlite": "a.db", "to": "b.db", "template": "c"}, "one of"),
        ({"postgresql": "postgresql:///a", "to": "postgresql:///b"}, "template"),
        ({"postgresql": "postgresql:///a", "to": "postgresql:///a", "template": "t"}, "the store itself"),
        ({"sqlite": "a.db", "to": "./a.db"}, "must lie neither"),
        ({"folder": "data", "to": "data/copy"}, "must lie neither"),
    ],
)
def test_copies_are_declared_or_refused(tmp_path, given, words):
    """
    A copy that can't be one is refused with the place where it stands.
    """
    with pytest.raises(SandboxError, match=words) as caught:
        copies_of({"copies": [given]}, tmp_path, "modern.sandbox")

    assert "modern.sandbox.copies[0]" == caught.value.source


def test_a_feed_that_never_began_closes(town, play):
    """
    A server that stops while it starts has nothing to stop here.
    """

    async def story():
        await SandboxFeed(ShadowQueue({}, Bench()), {}, lambda route, why: None).close()

    play(story())


def test_an_instance_that_fails_is_made_anew(town, play, caplog):
    """
    A sandbox that can't start is tried again, and says so; no answer waits for it.
    """

    async def story():
        t = await town()
        office = t.offices["modern"]
        start = office.start
        fails = [True]

        class Flaky(Office):
            async def start(self):
                if fails.pop() if fails else False:
                    raise OSError("no room")
                return await start()

        t.feed.sandboxes[Side.MODERN].instance = Flaky(office.home)
        t.feed._make_anew()
        await t.settled()

        assert t.feed.ready
        assert "" == t.feed.problem
        await t.register()
        await t.settled()
        assert Verdict.SAME is t.judged().verdict
        await t.feed.close()

    play(story())
    assert "no room" in caplog.text


def test_nothing_is_made_before_it_is_wanted(town, play, tmp_path):
    """
    A sandbox that no route uses has no copies and no instances; from the moment that one
    does it has both, and the instances go when none does any more.
    """

    async def story():
        t = await town(wanted=False)
        await t.register("0@x")
        assert [0, 0] == [t.offices[side].starts for side in ("legacy", "modern")]
        assert not (tmp_path / "legacy").exists() and not (tmp_path / "modern").exists()
        assert [("POST /register", Dropped.UNSEEDED)] == t.house.bench.drops

        t.feed.want(True)
        await t.settled()
        await t.register("1@x")
        await t.settled()
        assert Verdict.SAME is t.judged().verdict
        assert (1, 2) == (t.feed.seedings, rows(tmp_path / "modern", "users"))

        t.feed.want(False)
        await t.settled()
        assert [None, None] == [sandbox.app for sandbox in t.feed.sandboxes.values()]
        await t.register("2@x")
        t.feed.want(True)
        await t.settled()
        assert (2, 3) == (t.feed.seedings, rows(tmp_path / "modern", "users"))
        await t.feed.close()

    play(story())


def test_whoever_mends_it_need_not_wait(town, play):
    """
    After a seeding that failed the next one comes a while later; but at once where every
    route was taken back meanwhile, and one comes again.

    Seen to fail (by its timeout) where the pause was slept through.
    """

    async def story():
        t = await town(wanted=False)
        t.feed.pace = attrs.evolve(t.feed.pace, again=1000.0, longest=1000.0)
        office, failed = t.offices["modern"], asyncio.Event()

        class Flaky(Office):
            async def start(self):
                if not failed.is_set():
                    failed.set()
                    raise OSError("no room")
                return await office.start()

        t.feed.sandboxes[Side.MODERN].instance = Flaky(office.home)
        t.feed.want(True)
        await failed.wait()
        while not t.feed.problem:  # noqa: ASYNC110 -- said a few turns later
            await asyncio.sleep(0)

        t.feed.want(False)
        await t.settled()
        t.feed.want(True)
        async with asyncio.timeout(10):
            await t.settled()

        assert t.feed.ready
        await t.feed.close()

    play(story())


def test_writes_across_a_snapshot_spoil_it(town, play):
    """
    A write that began before the copies were taken, and was answered after, may be in
    them or not: they are taken again, a few times.
    """

    async def story():
        t = await town()
        decision = t.house.dispatcher.table.value.decide(b"POST", b"/register", None)
        scope = {"path": "/register", "method": "POST", "headers": []}
        seen = t.house.shadows.recording(decision, scope, -1.0)

        t.house.shadows.offer(decision, scope, [b"{}"], seen)
        await t.settled()

        assert [("POST /register", Dropped.UNSEEDED)] == t.house.bench.drops
        assert 2 == t.feed.seedings
        await t.feed.close()

    play(story())
