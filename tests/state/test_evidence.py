"""
Evidence: counters that add up, a few bodies for each difference, within a size.
"""

from __future__ import annotations

from bridge.state import Proposal, Store
from bridge.state.evidence import SAMPLE_CAP


def test_counters_add_up(any_store: Store) -> None:
    """
    Several processes add to one sum; the first and the last moment stay true.
    """
    any_store.add_counts("r", "i", {"shadow.same": 3, "shadow.different": 1}, at=5.0)
    any_store.add_counts("r", "i", {"shadow.same": 4}, at=9.0)
    any_store.add_counts("r", "i", {"shadow.same": 1}, at=2.0)
    any_store.add_counts("r", "i", {}, at=1.0)

    assert any_store.counts("r", "i") == {"shadow.same": 8, "shadow.different": 1}
    assert any_store.first_at("r", "i") == 5.0
    assert any_store.first_at("r", "other") is None


def test_evidence_of_old_code_stays_and_does_not_count(any_store: Store) -> None:
    """
    Each identity has its own counters; the latest is found without knowing the code.
    """
    any_store.add_counts("r", "old", {"shadow.same": 300}, at=1.0)
    any_store.add_counts("r", "new", {"shadow.same": 2}, at=2.0)

    assert any_store.identity("r") == "new"
    assert any_store.identity("other") is None
    assert any_store.counts("r", "new") == {"shadow.same": 2}
    assert any_store.counts("r", "old") == {"shadow.same": 300}


def test_the_most_frequent_difference_comes_first(any_store: Store) -> None:
    """
    Fingerprints are counted for ever.
    """
    any_store.add_fingerprints("r", "i", [("a", "value", "$.x", 1), ("b", "missing", "$.y", 5)], at=1.0)
    any_store.add_fingerprints("r", "i", [("a", "value", "$.x", 9)], at=4.0)
    any_store.add_fingerprints("r", "other", [("c", "value", "$.z", 99)], at=4.0)
    any_store.add_fingerprints("r", "i", [], at=9.0)

    found = any_store.fingerprints("r", "i")
    assert [(f.fingerprint, f.count, f.first_at, f.last_at) for f in found] == [("a", 10, 1.0, 4.0), ("b", 5, 1.0, 1.0)]
    assert [f.fingerprint for f in any_store.fingerprints("r")] == ["c", "a", "b"]


def test_the_first_and_the_newest_two_bodies_are_kept(any_store: Store) -> None:
    """
    How it began and how it is now; not ten thousand copies of the same.
    """
    for n in range(10):
        assert any_store.add_sample("r", "i", "a", f"body {n}", at=float(n))
    any_store.add_sample("r", "i", "b", "another", at=11.0)

    assert [s.text for s in any_store.samples("r", "a")] == ["body 9", "body 8", "body 0"]
    assert [s.text for s in any_store.samples("r", limit=2)] == ["another", "body 9"]


def test_a_body_that_is_too_long_is_not_kept(any_store: Store) -> None:
    """
    Whoever made it is told.
    """
    assert any_store.add_sample("r", "i", "a", "x" * (SAMPLE_CAP + 1), at=1.0) is False
    assert any_store.samples("r") == []


def test_under_the_cap_no_difference_loses_its_last_body_to_anothers_extras(any_store: Store) -> None:
    """
    Extras go first, oldest first; only then the last ones.
    """
    any_store.add_sample("r", "i", "rare", "x" * 100, at=0.0)
    for n in range(3):
        any_store.add_sample("r", "i", "often", str(n) * 100, at=1.0 + n)

    any_store.add_sample("r", "i", "new", "y" * 100, at=9.0, cap=300)
    kept = [s.text[0] for s in any_store.samples("r")]
    any_store.add_sample("r", "i", "newer", "z" * 100, at=10.0, cap=100)

    assert kept == ["y", "2", "x"]
    assert [s.text[0] for s in any_store.samples("r")] == ["z"]


def test_what_somebody_decided_about_a_rule_stays(any_store: Store) -> None:
    """
    New figures update a proposal, never an answer.
    """
    any_store.propose("r", "$.eta", "ann", 100.0, 0.1, 200)
    any_store.propose("r", "$.eta", "ann", 100.0, 0.2, 400)
    assert any_store.proposals("r") == [Proposal("r", "$.eta", "ann", 100.0, 0.2, 400, "proposed")]

    assert any_store.answer_proposal("r", "$.eta", "refused", "bob") is True
    any_store.propose("r", "$.eta", "ann", 100.0, 0.9, 900)

    assert any_store.proposals("r") == [Proposal("r", "$.eta", "bob", 100.0, 0.2, 400, "refused")]
    assert any_store.answer_proposal("r", "$.other", "refused", "bob") is False


def test_what_a_ruling_stood_on_can_be_read_again(any_store: Store) -> None:
    """
    The audit log's evidence id leads to the counters of that moment.
    """
    key = any_store.add_evidence("r", "i", '{"same": 326}', 5.0)

    found = any_store.evidence(key)
    assert found is not None
    assert (found.route, found.identity, found.at, found.text) == ("r", "i", 5.0, '{"same": 326}')
    assert any_store.evidence(key + 1) is None


def test_all_routes_are_read_at_once_the_latest_code_first(any_store: Store) -> None:
    """
    What a status of many routes needs: one query, and old code's counters behind the new ones'.
    """
    any_store.add_counts("r", "old", {"shadow.same": 300, "shadow.aa": 2}, at=1.0)
    any_store.add_counts("r", "new", {"shadow.same": 2}, at=2.0)
    any_store.add_counts("s", "code", {"shadow.same": 1}, at=3.0)
    any_store.add_counts("s", "code", {"shadow.aa": 1}, at=4.0)

    found = any_store.counted()
    assert {name: [each.identity for each in rows] for name, rows in found.items()} == {
        "r": ["new", "old"],
        "s": ["code"],
    }
    assert found["r"][1].counts == {"shadow.same": 300, "shadow.aa": 2}
    assert (found["s"][0].first_at, found["s"][0].last_at) == (3.0, 4.0)
    assert any_store.counted("s") == {"s": found["s"]}
