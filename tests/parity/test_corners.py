"""
Corners of comparing that a real pair seldom reaches.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from bridge.parity import Capture, Ending, Recording, Redactor, Rules, judge
from bridge.parity.documents import moments_replaced, parse, plain
from bridge.parity.headers import media_type
from bridge.parity.observe import Effect, Observation
from bridge.parity.sample import Asked, sample_of


def _answer(body: bytes = b"{}", effects: tuple[tuple[str, str, object], ...] = ()) -> Observation:
    recording = Recording(0.0, Capture())
    recording.started(200, [(b"content-type", b"application/json")], 0.0)
    recording.wrote(body)
    for effect in effects:
        recording.effect(*effect)
    return recording.closed(Ending.COMPLETE, 0.1)


def test_what_a_recording_holds_is_its_bytes_and_headers() -> None:
    """
    The queue knows how much memory an answer keeps.
    """
    recording = Recording(0.0, Capture())
    recording.started(200, [(b"a", b"bc")], 0.0)
    recording.wrote(b"12345")

    assert 8 == recording.held


def test_an_empty_parameter_of_a_content_type_says_nothing() -> None:
    """
    A trailing semicolon is no difference.
    """
    assert media_type(["text/html; charset=UTF-8"]) == media_type(["text/html; charset=utf-8;"])


def test_a_parsed_document_is_written_as_json_writes_it() -> None:
    """
    Objects keep their order, in lists too.
    """
    assert [{"b": 1, "a": [2]}] == plain(parse(b'[{"b": 1, "a": [2]}]'))


def test_effects_of_two_sandboxes_are_compared_whoever_answered() -> None:
    """
    What the second instances did counts, with legacy's left and modern's right.
    """
    same, other = Effect("row", "t:1", {"a": 1}), Effect("row", "t:1", {"a": 2})

    for answered_by_modern in (False, True):
        stored = ((same,), (other,))
        judged = judge(_answer(), _answer(), _answer(), answered_by_modern, Rules(), False, True, stored)
        assert ["effect:row:t.a"] == [d.place for d in judged.differences]


def test_an_effect_of_any_value_can_be_shown() -> None:
    """
    A sample is text, whatever an application told as an effect.
    """
    legacy = _answer(effects=(("row", "t:1", {"when": object}),))
    asked = Asked("GET", b"/", b"", (), b"", ())

    text = sample_of(asked, legacy, _answer(), "legacy", (), Redactor(b"k" * 16))

    assert "when" in json.dumps(json.loads(text)["legacy"]["effects"])


def test_an_ignored_path_is_no_difference_whatever_its_kind() -> None:
    """
    A key that is there on one side alone can be ignored like one that differs.
    """
    rules = Rules(("$.extra",))

    judged = judge(_answer(b'{"a": 1}'), _answer(b'{"a": 1, "extra": 2}'), None, False, rules)

    assert () == judged.differences


def test_only_the_moments_that_are_meant_become_the_same() -> None:
    """
    Times since a moment are one and the same, in either spelling; older ones stand, and so does what is no time.
    """
    since = datetime(2026, 1, 1, tzinfo=UTC)

    made = moments_replaced(
        "2026-11-21T20:00:00Z,2025-11-21T20:00:00Z,2026-13-41T20:00:00Z,Sat, 21 Nov 2026 20:00:00 GMT",
        lambda moment: moment >= since,
    )

    assert "\0,2025-11-21T20:00:00Z,2026-13-41T20:00:00Z,\0" == made


def test_what_is_written_to_a_head_is_not_its_body() -> None:
    """
    Servers leave it out, so that it is no difference.
    """
    recording = Recording(0.0, Capture(), bodiless=True)
    recording.started(200, [], 0.0)
    recording.wrote(b"12345")

    assert (0, b"") == (recording.closed(Ending.COMPLETE, 0.1).size, recording.so_far().prefix)
