"""
Two runs' tables are the same where only their own ids and times differ, and in nothing else.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from bridge.dispatch.sandbox.folders import FolderCopy
from bridge.dispatch.sandbox.tables import table_of
from bridge.parity import Effect, Rules
from bridge.parity.effects import compare_effects

NOW = "2026-11-28T12:00:%02d.000000Z"
OLD = "2026-11-01T12:00:%02d.000000Z"
SEEDED = 1795867200.0  # 2026-11-28T12:00:00Z


def rows(run: str, seconds: int, moment: str = NOW) -> list[dict[str, object]]:
    """
    A table as one run wrote it: its own ids, and its own times.
    """
    return [
        {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run}{n}")), "name": f"job {n}", "tries": n, "at": moment % seconds}
        for n in range(3)
    ]


def as_csv(table: list[dict[str, object]], end: str = "\r\n") -> str:
    return end.join([",".join(table[0]), *(",".join(map(str, row.values())) for row in table), ""])


def as_json(table: list[dict[str, object]], **how: object) -> str:
    return json.dumps(table, separators=(",", ":"), **how)  # type: ignore[arg-type]


def differing(one: str, two: str, name: str = "t.json", rules: Rules | None = None, names: Any = ({}, {})) -> set[str]:
    """
    Where two runs' files differ, as the comparison of effects says it.
    """
    left, right = (
        [Effect("file", "data:t", {"op": "insert", **(table_of(name, text, SEEDED, known) or {"lines": [text]})})]
        for text, known in zip((one, two), names, strict=True)
    )
    found = compare_effects(left, right, rules or Rules(moments=60.0), None)
    return {difference.path.removeprefix("effect:file:data.") for difference in found}


@pytest.mark.parametrize(("form", "name"), [(as_csv, "t.csv"), (as_json, "t.json")])
def test_own_ids_and_times(form, name):
    """
    Ids are each run's own, and so are times since the copies were made.
    """
    assert set() == differing(form(rows("a", 1)), form(rows("b", 30)), name)


@pytest.mark.parametrize(("form", "name"), [(as_csv, "t.csv"), (as_json, "t.json")])
def test_other_rows(form, name):
    """
    A row less, more, in another place, or with another value, and an id that stands for two.

    Seen to fail with a rule that leaves the file's content out, as the example's policy had it.
    """
    made = rows("b", 2)
    plain = form(rows("a", 1))
    twice = [made[0], {**made[1], "id": made[0]["id"]}, made[2]]
    renamed = [{**made[0], "name": "job x"}, *made[1:]]
    retried = [*made[:2], {**made[2], "tries": 7}]

    assert "rows" in differing(plain, form(made[:-1]), name)
    assert "rows" in differing(plain, form([*made, made[-1]]), name)
    assert {"columns.name", "columns.tries"} == differing(plain, form([made[1], made[0], made[2]]), name)
    assert {"columns.id"} == differing(plain, form(twice), name)
    assert {"columns.name"} == differing(plain, form(renamed), name)
    assert {"columns.tries"} == differing(plain, form(retried), name)


def test_times_of_before_the_copy_are_the_same():
    """
    What stood in the store when the copies were made has one time.
    """
    assert {"columns.at"} == differing(as_json(rows("a", 1, OLD)), as_json(rows("b", 2, OLD)))
    assert set() == differing(as_json(rows("a", 1, OLD)), as_json(rows("b", 1, OLD)))


def test_what_only_looks_like_a_time():
    """
    A time that no calendar has is a text like others, and one without a zone may be in UTC.
    """
    one, two = ([{"a": f"2026-13-41T00:00:0{n}", "b": f"2026-11-28 12:00:0{n}"}] for n in (1, 2))

    assert {"columns.a"} == differing(json.dumps(one), json.dumps(two))


@pytest.mark.parametrize("zone", ["UTC+5", "UTC-9"])
def test_a_time_without_a_zone_may_be_this_hosts(zone, monkeypatch):
    """
    Two runs a moment apart wrote down the local time: west of Greenwich it is long before the copy, read as UTC.

    Seen to fail where it was read as UTC alone.
    """
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        local = time.strftime("%Y-%m-%d %H:%M:%%02d", time.localtime(SEEDED + 60))
        assert set() == differing(as_json(rows("a", 1, local)), as_json(rows("b", 2, local)))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_first_of_all_days_is_a_time_like_others():
    """
    Many tables have it where there is no time, and are compared as tables all the same.

    Seen to fail where it was turned into this host's time, in which it is none: the file was no table.
    """
    found = table_of("t.json", json.dumps([{"id": 1, "paid": "0001-01-01 00:00:00"}]), SEEDED, {})

    assert found is not None
    assert 1 == found["rows"]


def test_rows_that_differ_in_their_ids_alone():
    """
    Two rows that change places are told apart by what answers have shown of their ids.

    Seen to fail with ids that are only numbered as they come.
    """
    one, two = ([{"id": row["id"], "at": row["at"]} for row in rows(run, 1)] for run in "ab")
    names = tuple({row["id"]: f"real {n}" for n, row in enumerate(table[:2])} for table in (one, two))
    turned = [two[1], two[0], two[2]]

    assert set() == differing(as_json(one), as_json(two), names=names)
    assert {"columns.id"} == differing(as_json(one), as_json(turned), names=names)


def test_a_rule_leaves_a_column_out():
    """
    What is at work while it is read differs by itself.
    """
    one, two = rows("a", 1), rows("b", 2)
    two[1]["tries"] = 9
    rules = Rules(("effect:file:data.columns.tries",), moments=60.0)

    assert set() == differing(as_json(one), as_json(two), rules=rules)


def test_how_it_is_written():
    """
    Line ends, quotes and spaces, the order of keys, types, and null or missing are part of what somebody downloads.
    """
    table = rows("a", 1)
    turned = [dict(reversed(row.items())) for row in table]
    late = [*table[:2], {**table[2], "note": None}]

    assert {"form"} == differing(as_csv(table), as_csv(table, "\n"), "t.csv")
    assert {"form"} == differing(as_csv(table), as_csv(table).replace("job 1", '"job 1"'), "t.csv")
    assert {"form"} == differing(as_json(table), json.dumps(table))
    assert {"columns[\"\"]"} == differing(as_json(table), as_json(turned)) - {"columns"}
    floats = [{**row, "tries": float(n)} for n, row in enumerate(table)]
    assert {"columns.tries"} == differing(as_json(table), as_json(floats))
    assert "columns.note" in differing(as_json(table), as_json(late))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.txt", "a,b\n1,2\n"),
        ("t.csv", "only\n1\n"),
        ("t.csv", ""),
        ("t.csv", "a,a\n1,2\n"),
        ("t.csv", "a,b\n1\n"),
        ("t.csv", 'a,b\n"1,2\n'),
        ("t.json", "[]"),
        ("t.json", '{"a": 1}'),
        ("t.json", "[1]"),
        ("t.json", '[{"a": {"b": 1}}]'),
        ("t.json", "[" * 100_000),
        ("t.json", "nothing"),
    ],
)
def test_no_table(name, text):
    """
    Other files are compared as they were: by their lines, or their size and digest.
    """
    assert table_of(name, text, SEEDED, {}) is None


def test_a_large_table_in_a_folder(tmp_path: Path):
    """
    A folder's copy tells a table by its columns, whatever its size; past the limit, and where a file is no text, by
    its size and digest.
    """
    original = tmp_path / "data"
    original.mkdir()
    copy = FolderCopy(original, tmp_path / "copy")
    copy.seed(None)
    table = [{"id": str(uuid.uuid4()), "n": n} for n in range(5000)]
    (copy.copy / "t.json").write_text(as_json(table))
    (copy.copy / "b.csv").write_bytes(b"a,b\n\xff,1\n")

    found = {effect.key: effect.value for effect in copy.changes()}

    assert (5000, {"", "id", "n"}) == (found["data:t.json"]["rows"], set(found["data:t.json"]["columns"]))
    assert {"op", "size", "digest"} == set(found["data:b.csv"])
