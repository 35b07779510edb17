"""
The cases' own test: small changes in handlers and workers of either side, each of which some case must catch.

A mutation is a text that stands in the side's package and another one in its place, in a copy of the tree. It names the
cases that are run, by the beginning of their names, so that one takes seconds. A text that is no longer there fails
the test: the mutation then has to be written anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest

from tests.contract.cases import load
from tests.contract.conftest import SETTINGS
from tests.contract.runner import Runner
from tests.contract.servers import ROOT, TARGETS, start
from tests.contract.stores import Database

PACKAGES = {"legacy": "legacy_twisted", "modern": "modern_fastapi"}


@attrs.frozen
class Mutation:
    """
    `old` becomes `new` wherever it stands in the one file of `side` that has it.
    """

    side: str
    name: str
    old: str
    new: str
    cases: str

    def apply(self, tree: Path) -> None:
        texts = {path: path.read_text("utf-8") for path in (tree / PACKAGES[self.side]).rglob("*.py")}
        found = [path for path, text in texts.items() if self.old in text]
        # Elsewhere it would change what the cases don't look at, and one might fail for another reason.
        assert 1 == len(found), f"{self.old!r} stands in {found}, not in one file: write the mutation anew"
        found[0].write_text(texts[found[0]].replace(self.old, self.new), "utf-8")


L, M = "legacy", "modern"

MUTATIONS = (
    Mutation(L, "another greeting", 'b"Hello, world!"', 'b"Hello, World!"', "root"),
    Mutation(L, "another log", '"notifications.log"', '"app.log"', "send-notification writes"),
    Mutation(L, "another answer", '"message": "log queued"', '"message": "queued"', "log writes"),
    Mutation(L, "addresses keep their case", "email_key=email.lower()", "email_key=email", "register opens"),
    Mutation(L, "no order among the three", "after=welcome", "after=None", "register opens"),
    Mutation(
        L,
        "a conflict is a bad request",
        'Refusal(http.CONFLICT, "conflict"',
        'Refusal(http.BAD_REQUEST, "conflict"',
        "register opens",
    ),
    Mutation(L, "text in lower case", "chunk.upper()", "chunk.lower()", "upload is processed"),
    Mutation(L, "originals are kept", "remove(original)", "str(original)", "upload is processed"),
    Mutation(L, "a last line is forgotten", 'lines + (last != "\\n")', "lines", "upload:"),
    Mutation(L, "words are cut between blocks", "words -= 1", "words -= 0", "upload: many blocks"),
    Mutation(L, "an export holds itself", "seq < :before", "seq <= :before", "export of csv"),
    Mutation(L, "lines end as on Unix", r'lineterminator="\r\n"', r'lineterminator="\n"', "export of csv"),
    Mutation(L, "keys in the client's order", "sort_keys=True", "sort_keys=False", "process: keys are sorted"),
    Mutation(
        L, "one failure too many", 'run.row["failures"] < failures', 'run.row["failures"] <= failures', "unstable:"
    ),
    Mutation(L, "the oldest report", "ORDER BY day DESC LIMIT 1", "ORDER BY day LIMIT 1", "report of the last"),
    Mutation(L, "another word for an item", "created: {name}", "made: {name}", "items:"),
    Mutation(L, "the dependency comes last", "after=taskIds[0]", "after=taskIds[1:]", "process of an item runs"),
    Mutation(
        L,
        "health may be cached",
        'b"no-store")\n        request.answer',
        'b"no-cache")\n        request.answer',
        "healthz",
    ),
    Mutation(L, "another welcome", '"Welcome, {name}"', '"Hello, {name}"', "register opens"),
    Mutation(
        L, "the first spelling stays", "SET email = excluded.email, confirmed_at", "SET confirmed_at", "subscribe"
    ),
    Mutation(L, "days are hours", '["days"] * 86400', '["days"] * 3600', "cleanup removes"),
    Mutation(L, "the list is upside down", "sorted(removed)", "sorted(removed, reverse=True)", "cleanup removes"),
    Mutation(L, "compact no longer", 'separators=(",", ":")).encode("utf-8")', ').encode("utf-8")', "log writes"),
    Mutation(L, "nothing can be cancelled", "render_DELETE", "render_REMOVE", "task that waits"),
    Mutation(M, "another greeting", '"Hello, world!"', '"Hello, World!"', "root"),
    Mutation(M, "another log", '"notifications.log"', '"app.log"', "send-notification writes"),
    Mutation(M, "another answer", '"log queued"', '"queued"', "log writes"),
    Mutation(M, "addresses keep their case", "registration.email.lower()", "registration.email", "register opens"),
    Mutation(M, "no order among the three", "after=directory", "after=None", "register opens"),
    Mutation(M, "another page is missing", '"no such page"', '"no such thing"', "unknown path: plain"),
    Mutation(M, "not ready is too early", '"not_ready": 409', '"not_ready": 425', "upload that is not"),
    Mutation(M, "a wrong method is unknown", '"method_not_allowed": 405', '"method_not_allowed": 501', "root: refuses"),
    Mutation(M, "text in lower case", "text.upper()", "text.lower()", "upload is processed"),
    Mutation(M, "originals are kept", "original.unlink(missing_ok=True)", "original.exists()", "upload is processed"),
    Mutation(M, "a last line is forgotten", 'lines + (last != "\\n")', "lines", "upload:"),
    Mutation(M, "words are cut between blocks", "words -= 1", "words -= 0", "upload: many blocks"),
    Mutation(M, "an export holds itself", "Task.seq < own", "Task.seq <= own", "export of csv"),
    Mutation(M, "keys in the client's order", "sort_keys=True", "sort_keys=False", "process: keys are sorted"),
    Mutation(M, "one failure too many", "failures < params.failures", "failures <= params.failures", "unstable:"),
    Mutation(M, "the oldest report", "Report.day.desc()", "Report.day.asc()", "report of the last"),
    Mutation(M, "another word for an item", "created: {name}", "made: {name}", "items:"),
    Mutation(M, "the dependency comes alongside", "after=logged", "after=None", "process of an item runs"),
    Mutation(M, "health may be cached", '["Cache-Control"] = "no-store"', '["Cache-Control"] = "no-cache"', "healthz"),
    Mutation(M, "another welcome", '"Welcome, {params.name}"', '"Hello, {params.name}"', "register opens"),
    Mutation(
        M, "subscriptions keep their case", "email_key=params.email.lower()", "email_key=params.email", "subscribe"
    ),
    Mutation(M, "days are hours", "params.days * 86_400", "params.days * 3_600", "cleanup removes"),
    Mutation(M, "the list is upside down", "sorted(gone)", "sorted(gone, reverse=True)", "cleanup removes"),
    Mutation(M, "a prime too many", "start = max(start, 2)", "start = max(start, 1)", "compute"),
)

SHORT = {(L, "text in lower case"), (M, "an export holds itself"), (M, "another page is missing")}


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(
            each, id=f"{each.side}: {each.name}", marks=() if (each.side, each.name) in SHORT else pytest.mark.long
        )
        for each in MUTATIONS
    ],
)
def test_a_mutation_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    """
    With one small change in a handler or a worker at least one case fails.
    """
    for package in PACKAGES.values():
        shutil.copytree(ROOT / package, tmp_path / "tree" / package, ignore=shutil.ignore_patterns("__pycache__"))
    mutation.apply(tmp_path / "tree")
    target = next(target for target in TARGETS if target.name == mutation.side)
    cases = [case for case in load() if case.name.startswith(mutation.cases)]
    assert cases

    server = start(target, tmp_path, SETTINGS, tree=tmp_path / "tree").listening()
    database = Database(f"sqlite:///{tmp_path / 'data' / 'jobs.db'}")
    try:
        runner = Runner(server.address, tmp_path / "data", database)
        caught = next((case.name for case in cases if runner.run(case)), None)
    finally:
        database.close()
        server.kill()

    assert caught is not None


def test_there_are_enough_mutations_of_both_sides() -> None:
    """
    Thirty at least, and half of them on either side; the short form has one of each.
    """
    assert 30 <= len(MUTATIONS)
    assert min(sum(each.side == side for each in MUTATIONS) for side in PACKAGES) >= 15
    assert {L, M} == {side for side, _ in SHORT}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.side}: {each.name}")
def test_a_mutation_applies(mutation: Mutation, tmp_path: Path) -> None:
    """
    The text that it changes stands in the source, so that the long form can't fail for want of it.
    """
    shutil.copytree(ROOT / PACKAGES[mutation.side], tmp_path / PACKAGES[mutation.side])

    mutation.apply(tmp_path)
