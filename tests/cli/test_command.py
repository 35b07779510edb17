"""
bgctl on the state itself: what it shows, what it moves, what it refuses, and how it ends.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bridge.cli import show
from bridge.cli.arguments import LATER, parser
from bridge.routing import Stage
from bridge.state import Store
from tests.cli.conftest import Bgctl, Serving

EXPORT = "GET /export/{export_id}"


def store(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'state.db'}")


def test_status_shows_every_route_and_makes_nothing(folder: Path, bgctl: Bgctl) -> None:
    """
    Before any server ever ran, all stands as the policy says; the empty folder stays as it was.
    """
    said = bgctl("status")

    assert said.status == 0
    for word in (EXPORT, "POST /log", "default", "consumer", "nobody", "hold"):
        assert word in said.out
    assert [path.name for path in folder.iterdir()] == ["bgserver.toml"]


def test_status_as_json_has_exactly_the_documented_shape(bgctl: Bgctl) -> None:
    """
    Programs find their keys, with their types, and nothing else on standard output.
    """
    found = json.loads(bgctl("status", "--json").out)

    row = found["routes"][0]
    documented = ["route", "stage", "weight", "pairs", "mismatches", "gate", "why"]
    assert list(row)[:7] == documented
    assert [row[key] for key in documented[:6]] == [EXPORT, "legacy", 0, 0, 0, "hold"]
    assert found["loops"] == [{"loop": "consumer", "owner": None, "epoch": 0, "stage": "legacy"}]


def test_options_may_stand_before_or_after_the_command(bgctl: Bgctl) -> None:
    """
    As people type them.
    """
    assert bgctl("--json", "status").out == bgctl("status", "--json").out


def test_a_forced_move_is_logged_with_its_reason(folder: Path, bgctl: Bgctl) -> None:
    """
    Who, from where, to where, why: for everybody to see, later too.
    """
    said = bgctl("set", "POST /log", "modern", "--force", "--why", "walk")

    change = store(folder).audit()[0]
    assert (said.status, said.out) == (0, "POST /log: legacy → modern\n")
    assert (change.name, change.why, change.forced) == ("POST /log", "walk", True)
    assert "@" in change.who
    assert "forced: walk" in bgctl("audit").out
    assert "walk" in bgctl("route", "POST /log").out


def test_a_move_without_evidence_is_refused(folder: Path, bgctl: Bgctl) -> None:
    """
    Exit status 1, the reason, and the remedy.
    """
    bare = bgctl("set", EXPORT, "canary")
    silent = bgctl("set", EXPORT, "canary", "--force")

    assert (bare.status, silent.status) == (1, 1)
    assert "--force --why" in bare.err
    assert "--why TEXT" in silent.err
    assert store(folder).audit() == []


def test_into_the_shadow_is_free_and_a_canary_has_the_policys_weight(folder: Path, bgctl: Bgctl) -> None:
    """
    Nothing moves in the shadow; a canary without --weight takes what the policy says.
    """
    assert bgctl("set", EXPORT, "shadow").status == 0
    assert bgctl("set", EXPORT, "canary", "--force", "--why", "w").out == f"{EXPORT}: shadow → canary 5 %\n"
    assert bgctl("set", EXPORT, "canary", "--weight", "20%", "--force", "--why", "w").status == 0
    assert store(folder).stages() == {EXPORT: (Stage.CANARY, 20.0)}
    assert bgctl("set", EXPORT, "canary", "--weight", "10").status == 0


def test_a_canary_without_a_weight_is_refused(bgctl: Bgctl) -> None:
    """
    0 % is no canary.
    """
    said = bgctl("set", "POST /log", "canary", "--weight", "0", "--force", "--why", "w")

    assert said.status == 1
    assert "--weight" in said.err


def test_rollback_goes_back_and_says_where_nothing_was(folder: Path, bgctl: Bgctl) -> None:
    """
    One route, or all; a second time is no error.
    """
    bgctl("set", EXPORT, "live", "--force", "--why", "w")
    bgctl("set", "default", "modern", "--force", "--why", "w")

    one = bgctl("rollback", EXPORT, "--why", "it smells")
    rest = bgctl("rollback", "--all", "--json")
    none = bgctl("rollback", "--all")

    assert one.out == f"{EXPORT}: live → legacy\n"
    assert [row["route"] for row in json.loads(rest.out)["moved"]] == ["default"]
    assert (none.status, "Nothing to roll back" in none.out) == (0, True)
    assert [change.why for change in store(folder).audit()][:2] == ["rollback", "it smells"]


def test_a_retired_route_has_nowhere_to_go_back_to(folder: Path, bgctl: Bgctl) -> None:
    """
    Legacy's code is gone: --all passes it over, and by name it wants force.
    """
    bgctl("set", EXPORT, "retired", "--force", "--why", "w")

    assert "Nothing to roll back" in bgctl("rollback", "--all").out
    assert bgctl("rollback", EXPORT).status == 1
    assert bgctl("set", EXPORT, "legacy", "--force", "--why", "restored").status == 0


def test_a_misspelt_route_gets_the_nearest(bgctl: Bgctl) -> None:
    """
    Exit status 1, and the name that was probably meant.
    """
    said = bgctl("route", "GET /exports/{export_id}")

    assert said.status == 1
    assert f"Did you mean '{EXPORT}'" in said.err


def test_a_loop_is_handed_over_by_its_rules(folder: Path, bgctl: Bgctl) -> None:
    """
    legacy to modern goes over live.
    """
    wrong = bgctl("handoff", "consumer", "modern")
    right = bgctl("handoff", "consumer", "live", "--why", "w")

    assert (wrong.status, right.status) == (1, 0)
    assert right.out == "consumer: legacy → live\n"
    assert "live" in bgctl("loops").out
    assert bgctl("handoff", "other", "live").status == 1


def test_what_the_policy_cannot_have_yet_is_refused_as_the_server_would(folder: Path, bgctl: Bgctl) -> None:
    """
    Exit status 5, from check too: a policy that passes here starts there.
    """
    policy = folder / "bgserver.toml"
    policy.write_text('front = "twisted"\n' + policy.read_text())
    checked = bgctl("check")

    assert checked.status == 5
    assert "front" in checked.err


def test_an_observed_loop_is_shown_with_its_ticks(folder: Path, bgctl: Bgctl) -> None:
    """
    The counts beside the loop; with its name, each difference with the tick as both sides tell it.
    """
    assert bgctl("handoff", "consumer", "observe").out == "consumer: legacy → observe\n"
    kept = store(folder)
    kept.add_counts("loop consumer", "code1", {"observe.same": 7, "observe.different": 1}, 1.0)
    kept.add_counts("loop consumer", "code1", {"observe.missing_legacy": 1, "observe.missing_modern": 2}, 1.0)
    found = [("f", "value", "effect:row:x", 2), ("g", "missing", "tick", 1)]
    kept.add_fingerprints("loop consumer", "code1", found, 1.0)
    sample = {"tick": "consumer@1", "legacy": [["row", "x", 1]], "modern": [], "differences": []}
    kept.add_sample("loop consumer", "code1", "f", json.dumps(sample), 1.0)
    kept.add_sample("loop consumer", "code1", "g", json.dumps({**sample, "modern": None}), 1.0)

    listed, shown = bgctl("loops"), bgctl("loops", "consumer")
    row = json.loads(bgctl("loops", "consumer", "--json").out)

    assert re.search(r"consumer +observe +nobody +0 +7 +1 +3", listed.out)
    for line in ("value at effect:row:x, 2 times", "tick consumer@1", "legacy: row x 1", "modern: nothing"):
        assert line in shown.out
    assert "modern: no such tick" in shown.out
    assert "legacy" in shown.out.rpartition("when")[2]
    assert {"same": 7, "different": 1, "missing": 3, "missing_on": {"legacy": 1, "modern": 2}} == row["observed"]
    assert bgctl("loops", "other").status == 1


def test_a_handoff_over_differing_ticks_is_told(folder: Path, bgctl: Bgctl) -> None:
    """
    It is carried out, since the person decides, and the dry run's result stands beside it.
    """
    bgctl("handoff", "consumer", "observe")
    nothing = bgctl("handoff", "consumer", "live").out
    bgctl("handoff", "consumer", "observe")
    store(folder).add_counts("loop consumer", "c", {"observe.same": 7, "observe.different": 2}, 1.0)
    store(folder).add_counts("loop consumer", "c", {"observe.missing_modern": 1}, 1.0)

    moved = bgctl("handoff", "consumer", "live")

    assert "No tick of it was compared" in nothing
    assert (0, True) == (moved.status, moved.out.startswith("consumer: observe → live\n"))
    assert "2 ticks differed, 1 were missing and 7 were the same" in moved.out
    assert "observed" not in bgctl("handoff", "consumer", "legacy", "--json").out


def test_a_loop_between_two_owners_is_shown_so(folder: Path, bgctl: Bgctl) -> None:
    """
    In the table, for programs, and where a rollback of all routes says what it leaves.
    """
    store(folder).acquire("consumer", "legacy:host-1", None)
    bgctl("handoff", "consumer", "live")

    assert re.search(r"consumer +handoff → live +legacy", bgctl("loops").out)
    assert "handoff" == json.loads(bgctl("loops", "--json").out)["loops"][0]["stage"]
    assert "consumer stays live" in bgctl("rollback", "--all").out


def test_parity_shows_both_sides_and_the_request_again(folder: Path, bgctl: Bgctl) -> None:
    """
    As a person wants to read it.
    """
    kept = store(folder)
    kept.add_counts(EXPORT, "code1", {"shadow.same": 10, "shadow.different": 2}, 1.0)
    kept.add_fingerprints(EXPORT, "code1", [("f", "value", "$.total", 2)], 1.0)
    sample = {
        "curl": "curl -i http://127.0.0.1:8000/export/7",
        "legacy": {"status": 200},
        "modern": {"status": 404},
        "answered": "legacy",
        "differences": [{"fingerprint": "f", "kind": "value", "path": "$.total", "legacy": 7, "modern": "seven"}],
    }
    kept.add_sample(EXPORT, "code1", "f", json.dumps(sample), 1.0)
    kept.propose(EXPORT, "$.eta", "ann", 0.0, 0.25, 12)

    said = bgctl("parity", EXPORT)
    report = bgctl("report")

    for word in ("value at $.total, 2 times", "seven", "404", sample["curl"], "$.eta", "25.0%"):
        assert str(word) in said.out
    assert "$.total" in report.out
    assert "no difference was seen: nothing was compared yet" in bgctl("parity", "POST /log").out


def test_evidence_that_begins_anew_is_said(folder: Path, bgctl: Bgctl) -> None:
    """
    Also of a route that stays in the shadow; without a reason nothing happens.

    Seen to fail with the move told alone.
    """
    Store.open(f"sqlite:///{folder}/state.db").add_counts(EXPORT, "code1", {"shadow.different": 60}, 1.0)
    first = bgctl("set", EXPORT, "shadow", "--why", "mended")
    assert "Its evidence begins anew" in first.out

    Store.open(f"sqlite:///{folder}/state.db").add_counts(EXPORT, "code1", {"shadow.different": 60}, 2.0)

    assert f"{EXPORT} is at shadow already." in bgctl("set", EXPORT, "shadow").out
    again = bgctl("set", EXPORT, "shadow", "--why", "mended again")
    assert f"{EXPORT} stays at shadow." in again.out
    assert "Its evidence begins anew" in again.out
    assert "mended again" in bgctl("audit", EXPORT).out


@pytest.mark.parametrize(
    "counts, said",
    [
        ({"shadow.noise": 60}, "in 60 pairs, of which 60 were noise: the answering side differed from itself."),
        ({"shadow.same": 2, "canary.same": 1, "canary.noise": 1}, "in 4 pairs, of which 1 was noise: "),
        ({"shadow.same": 1}, "in 1 pair."),
    ],
)
def test_noise_is_told_beside_no_difference(folder: Path, bgctl: Bgctl, counts: dict[str, int], said: str) -> None:
    """
    Pairs that were all noise show nothing, and say so.

    Seen to fail with the pairs counted alone.
    """
    Store.open(f"sqlite:///{folder}/state.db").add_counts(EXPORT, "code1", counts, 1.0)

    assert f"no difference was seen {said}" in bgctl("parity", EXPORT).out


def test_each_difference_is_shown_once(folder: Path, bgctl: Bgctl) -> None:
    """
    Two that one request shows stand in one table; one that another request shows too has its own there alone; of many
    alike the first few.

    Seen to fail where each fingerprint brought its request's whole table along.
    """

    def sample(number: int, *paths: str) -> str:
        found = [{"fingerprint": p.partition("[")[0], "path": p, "legacy": p, "modern": ""} for p in paths]
        return json.dumps({"curl": f"curl {number}", "differences": found})

    kept = store(folder)
    kept.add_counts(EXPORT, "code1", {"shadow.different": 2}, 1.0)
    kept.add_fingerprints(EXPORT, "code1", [(name, "value", f"at.{name}", 2) for name in ("aa", "bb", "cc")], 1.0)
    both = sample(1, "aa", "bb", "cc")
    kept.add_sample(EXPORT, "code1", "aa", both, 1.0)
    kept.add_sample(EXPORT, "code1", "bb", both, 1.0)
    kept.add_sample(EXPORT, "code1", "cc", sample(2, "aa", *(f"cc[{n}]" for n in range(5))), 1.0)

    lines = bgctl("parity", EXPORT).out.splitlines()

    assert [1, 1] == [sum(line.split()[:1] == [name] for line in lines) for name in ("aa", "bb")]
    assert ["cc[0]", "cc[1]", "cc[2]"] == [line.split()[0] for line in lines if line.startswith("cc[")]
    assert [1, 1] == [sum(line.strip() == f"curl {n}" for line in lines) for n in (1, 2)]
    assert "and 2 more like these" in lines


def test_a_proposed_rule_is_answered_through_the_server(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With a server up the command goes through it, as every other one does; a refusal is the server's.

    Seen to fail where it worked on the database: no token was asked for.
    """
    serve(token="a-long-random-text")
    kept = store(folder)
    kept.propose(EXPORT, "$.eta", "gate", 9.0, 0.25, 400)

    without = bgctl("parity", EXPORT, "--accept", "$.eta")
    monkeypatch.setenv("BGSERVER_ADMIN_TOKEN", "a-long-random-text")
    accepted = bgctl("parity", EXPORT, "--accept", "$.eta")
    unknown = bgctl("parity", EXPORT, "--refuse", "$.other")

    assert (without.status, accepted.status, unknown.status) == (1, 0, 1)
    assert ["accepted"] == [proposal.status for proposal in kept.proposals(EXPORT)]
    assert "" == accepted.err
    assert "Proposed are: $.eta" in unknown.err


def test_a_proposed_rule_is_accepted_under_ones_name(folder: Path, bgctl: Bgctl) -> None:
    """
    Noise is never left out silently: somebody says so, and owns it.
    """
    kept = store(folder)
    kept.propose(EXPORT, "$.eta", "gate", 9.0, 0.25, 400)

    accepted = bgctl("parity", EXPORT, "--accept", "$.eta")
    unknown = bgctl("parity", EXPORT, "--refuse", "$.other")

    (proposal,) = kept.proposals(EXPORT)
    assert (accepted.status, unknown.status) == (0, 1)
    assert (proposal.status, "@" in proposal.owner) == ("accepted", True)
    assert "SIGHUP" in accepted.out
    # Seen to fail with the proposal's row alone.
    [logged] = [line for line in bgctl("audit", EXPORT).out.splitlines() if "$.eta" in line]
    assert all(word in logged for word in (proposal.owner, EXPORT, "proposed", "accepted", "ignore $.eta"))
    assert "Proposed are: $.eta" in unknown.err
    assert json.loads(bgctl("parity", EXPORT, "--refuse", "$.eta", "--json").out)["status"] == "refused"


def test_what_is_not_built_is_refused_by_name(bgctl: Bgctl) -> None:
    """
    Exit status 5, whatever stands behind the command.
    """
    for name in LATER:
        said = bgctl(name, "--some", "thing")
        assert said.status == 5
        assert name in said.err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("unknown",),
        ("set", "x"),
        ("set", "x", "beta"),
        ("set", "x", "canary", "--weight", "101"),
        ("set", "x", "canary", "--weight", "much"),
        ("rollback",),
        ("rollback", "x", "--all"),
        ("status", "--jsn"),
        ("audit", "--limit", "0"),
    ],
)
def test_a_wrong_command_line_ends_with_2(bgctl: Bgctl, words: tuple[str, ...]) -> None:
    """
    Before any policy or database is looked at.
    """
    assert bgctl(*words).status == 2


@pytest.mark.parametrize("weight", ["abc", "101", "nan"])
def test_a_wrong_weight_is_told_what_a_weight_is(bgctl: Bgctl, weight: str) -> None:
    """
    In words, and not by the name of a function in the program.
    """
    said = bgctl("set", "x", "canary", "--weight", weight)

    assert f"{weight!r} is no number of percent from 0 to 100" in said.err


def test_a_broken_policy_ends_with_3(folder: Path, bgctl: Bgctl) -> None:
    """
    One line with the file and the key path.
    """
    (folder / "bgserver.toml").write_text("[routes]\nstag = 'legacy'")

    said = bgctl("status")

    assert (said.status, said.err.count("\n")) == (3, 1)
    assert "bgserver.toml: routes.stag:" in said.err
    assert bgctl("status", "--config", "nowhere.toml").status == 3


def test_a_state_that_cannot_be_read_ends_with_4(folder: Path, bgctl: Bgctl) -> None:
    """
    A broken file isn't taken for an empty state.
    """
    (folder / "state.db").write_text("no database" * 500)

    assert bgctl("status").status == 4
    assert bgctl("check").status == 4


@pytest.mark.parametrize("words", [("status",), ("loops",), ("check",), ("set", EXPORT, "shadow", "--why", "w")])
@pytest.mark.parametrize("url", ["sqlite:///nope/x.db", "sqlite:///x.db"])
def test_a_state_that_was_named_must_be_there(folder: Path, bgctl: Bgctl, url: str, words: tuple[str, ...]) -> None:
    """
    It isn't taken for a state in which nothing was moved, and not made by a slip of the pen.
    """
    said = bgctl(*words, "--state", url)

    assert said.status == 4
    assert "x.db" in said.err + said.out
    assert ["bgserver.toml"] == [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("left", ["-wal", ".key"])
def test_a_state_that_was_taken_away_is_not_one_that_never_was(folder: Path, bgctl: Bgctl, left: str) -> None:
    """
    What a server leaves beside its state says that there was one, so nothing is known of the stages.
    """
    never = bgctl("status")
    (folder / f"state.db{left}").touch()
    taken = bgctl("status")

    assert (0, True) == (never.status, "No state yet at sqlite:///" in never.err)
    assert (4, "") == (taken.status, taken.out)
    assert "state.db" in taken.err


def test_a_server_that_was_named_must_answer(folder: Path, bgctl: Bgctl) -> None:
    """
    --admin never falls back to a database that may be another's.
    """
    said = bgctl("status", "--admin", "http://127.0.0.1:9")

    assert said.status == 4
    assert "No bgserver answers" in said.err


def test_check_says_what_it_looked_at(folder: Path, bgctl: Bgctl) -> None:
    """
    Policy, state, server; nothing is changed.
    """
    said = bgctl("check")
    found = json.loads(bgctl("check", "--json").out)

    assert said.status == 0
    assert [row["what"] for row in found["checks"]] == ["policy", "state", "server"]
    assert found["ok"] is True
    assert not (folder / "state.db").exists()


def test_a_running_server_is_asked(folder: Path, bgctl: Bgctl, serve: Callable[..., Serving]) -> None:
    """
    Nothing is said on standard error, and the move counts in the server when the command ends.
    """
    serving = serve()

    moved = bgctl("set", "POST /log", "modern", "--force", "--why", "walk")
    stage = serving.table.value.route("POST /log").stage

    assert (moved.status, moved.out, moved.err) == (0, "POST /log: legacy → modern\n", "")
    assert stage is Stage.MODERN
    assert bgctl("check").status == 0
    assert "walk" in bgctl("audit").out
    assert "modern" in bgctl("route", "POST /log").out
    assert "nothing was compared" in bgctl("parity", "POST /log").out
    assert bgctl("report").status == 0
    assert bgctl("handoff", "consumer", "live").status == 0
    said = bgctl("rollback", "--all").out
    assert said.startswith("POST /log: modern → legacy\n")
    assert "Left: the loop consumer stays live: loops are handed over one at a time: `bgctl handoff" in said
    assert bgctl("set", "POST /log", "live").status == 1
    assert bgctl("route", "POST /lag").status == 1


def test_with_the_server_down_the_state_is_used_and_it_is_said(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving]
) -> None:
    """
    On standard error, so that --json stays JSON.
    """
    serve().stop()

    said = bgctl("status", "--json")

    assert said.status == 0
    assert "No bgserver answers" in said.err
    assert json.loads(said.out)["routes"]


def test_the_token_opens_the_server(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It comes from the environment; without it the refusal names the variable.
    """
    serving = serve(token="a-long-random-text", named=False)
    url = f"http://127.0.0.1:{serving.port}"

    without = bgctl("status", "--admin", url)
    monkeypatch.setenv("BGSERVER_ADMIN_TOKEN", "a-long-random-text")

    assert (without.status, "BGSERVER_ADMIN_TOKEN" in without.err) == (1, True)
    assert bgctl("status", "--admin", f"tcp:{serving.port}:interface=127.0.0.1").status == 0


def test_a_rollback_reaches_a_server_whose_database_is_locked(
    folder: Path, bgctl: Bgctl, serve: Callable[..., Serving]
) -> None:
    """
    Finding the server asks no database: seen to fail when bgctl asked for the status first.
    """
    serving = serve()
    bgctl("set", "POST /log", "modern", "--force", "--why", "walk")
    lock = sqlite3.connect(folder / "state.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")

    said = bgctl("rollback", "POST /log")
    lock.close()

    assert (said.status, said.out.splitlines()[0]) == (0, "POST /log: modern → legacy")
    assert serving.table.value.route("POST /log").stage is Stage.LEGACY


def test_a_server_on_a_unix_socket_is_asked(folder: Path, bgctl: Bgctl, serve: Callable[..., Serving]) -> None:
    """
    The folder's permissions are the token then.
    """
    path = folder / "admin.sock"
    serving = serve(named=False, unix=path)

    said = bgctl("set", "POST /log", "modern", "--force", "--why", "walk", "--admin", f"unix:{path}")

    assert (said.status, said.err) == (0, "")
    assert serving.table.value.route("POST /log").stage is Stage.MODERN


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"SSH-2.0-x\r\n", b""])
def test_what_is_no_bgserver_is_not_taken_for_one(folder: Path, bgctl: Bgctl, answer: bytes) -> None:
    """
    Something else may listen where the server did: named, it is refused; by policy, the state is used, and it is said.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def reply() -> None:
        for _ in range(2):
            connection, _address = listener.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()

    thread = threading.Thread(target=reply)
    thread.start()
    named = bgctl("status", "--admin", f"http://127.0.0.1:{port}")
    policy = folder / "bgserver.toml"
    policy.write_text(policy.read_text().replace('"off"', f'"tcp:{port}:interface=127.0.0.1"'))
    found = bgctl("status")
    thread.join()
    listener.close()

    assert (named.status, found.status) == (4, 0)
    assert "No bgserver answers" in named.err
    assert "working on the state" in found.err


def test_trouble_stands_above_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """
    A forced or a blind server isn't shown as if all were well.
    """
    found = {"routes": [], "loops": [], "force_legacy": True, "state": {"problem": "it is locked"}}

    show.status(found, Console())

    out = capsys.readouterr().out
    assert "FORCE_LEGACY: legacy answers everything on this server" in out
    assert "State: it is locked" in out


def test_a_move_that_is_not_recorded_yet_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Beside the move itself, which counts.
    """
    standing = {"stage": "live", "weight": 0}
    show.moved(
        [
            {
                "route": "GET /x",
                "from": standing,
                "to": {**standing, "stage": "legacy"},
                "changed": True,
                "problem": "locked",
            }
        ],
        Console(),
    )

    assert "isn't recorded yet: locked" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(bgctl: Bgctl, shell: str) -> None:
    """
    Made from the parser, so that it can't be behind it.
    """
    said = bgctl("completion", shell)

    assert said.status == 0
    for word in ("status", "rollback", "canary", *LATER):
        assert word in said.out


def test_bash_takes_the_completion() -> None:
    """
    After `bgctl set X ` the stages are offered.
    """
    root = Path(__file__).parents[2]
    command = (
        f'eval "$({sys.executable} -c "import bridge.cli; bridge.cli.main()" completion bash)"; '
        "COMP_WORDS=(bgctl set X ca); COMP_CWORD=3; _bgctl; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )

    assert done.stdout.split() == ["canary"]


def test_the_help_lists_every_exit_status() -> None:
    """
    Scripts can be written from it.
    """
    text = parser().format_help()

    for status in range(6):
        assert f"\n  {status}  " in text
