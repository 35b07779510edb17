"""
Verdicts, noise, identity and what an observation holds.
"""

from __future__ import annotations

import attrs

from bridge.parity import Agreed, Capture, Ending, Noise, Recording, Rules, Verdict, judge
from bridge.parity.differences import Difference, Kind
from bridge.parity.identity import digest_of, identity_of
from bridge.parity.verdict import Discord
from tests.parity.conftest import seen


def test_same():
    """
    Equal answers are the same, whoever gave them.
    """
    for modern in (False, True):
        judged = judge(seen({"a": 1}), seen({"a": 1}), seen({"a": 1}), modern)
        assert (Verdict.SAME, Discord.NONE, 200) == (judged.verdict, judged.discord, judged.outcome)


def test_different():
    """
    What differs where the answering side agrees with itself, is modern's difference.
    """
    judged = judge(seen({"a": 1}), seen({"a": 2}), seen({"a": 1}), False)

    assert (Verdict.DIFFERENT, Discord.AGAINST) == (judged.verdict, judged.discord)


def test_noise():
    """
    What differs by itself on this very request is noise; anything beyond is not.
    """
    noise = judge(seen({"a": 1, "b": 1}), seen({"a": 2, "b": 1}), seen({"a": 3, "b": 1}), False)
    beyond = judge(seen({"a": 1, "b": 1}), seen({"a": 2, "b": 2}), seen({"a": 3, "b": 1}), False)
    only = judge(seen({"a": 1}), seen({"a": 1}), seen({"a": 3}), False)

    assert (Verdict.NOISE, Discord.NONE) == (noise.verdict, noise.discord)
    assert (Verdict.DIFFERENT, Discord.AGAINST) == (beyond.verdict, beyond.discord)
    assert (Verdict.SAME, Discord.IN_FAVOUR) == (only.verdict, only.discord)


def test_differences_are_told_from_legacy_to_modern():
    """
    Left is legacy, right is modern, whoever answered.
    """
    [shadow] = judge(seen({"a": "old"}), seen({"a": "new"}), None, False).differences
    [live] = judge(seen({"a": "new"}), seen({"a": "old"}), None, True).differences

    assert shadow == live
    assert ('"old"', '"new"') == (live.left, live.right)


def test_latency_is_compared_between_shadows():
    """
    The two shadows ran alike; the answer itself says nothing about who is slower.
    """
    fast, slow = seen(latency=0.02), seen(latency=0.04)

    assert 1 == judge(fast, slow, fast, False).slower
    assert -1 == judge(fast, fast, slow, False).slower
    assert 1 == judge(fast, fast, slow, True).slower
    assert 0 == judge(slow, fast, fast, False).slower
    assert 0 == judge(fast, slow, fast, False, Rules(tolerate={"latency": 3.0})).slower
    assert 0 == judge(fast, seen(latency=0.0249), fast, False).slower
    assert 0 == judge(fast, seen(latency=0.004), seen(latency=0.001), False).slower
    hung = attrs.evolve(seen(how=Ending.DEADLINE), latency=None, status=None)
    assert 1 == judge(fast, hung, fast, False).slower
    assert 1 == judge(fast, seen(how=Ending.DEADLINE), fast, False).slower
    dripping = attrs.evolve(fast, lasted=0.3)
    assert (1, 1) == (judge(fast, dripping, fast, False).slower, judge(fast, dripping, fast, False).stalled)


def test_who_left_early_has_seen_nothing_that_counts():
    """
    Where the client left, a pair is as good as its replicate; without one it is no pair.
    """
    left, whole, other = seen(b"ab", how=Ending.LEFT), seen(b"abc"), seen(b"abd")

    assert Verdict.SAME is judge(left, whole, whole, False).verdict
    assert Verdict.NOISE is judge(left, other, whole, False).verdict
    assert Verdict.NOISE is judge(left, whole, None, False).verdict
    assert Verdict.DIFFERENT is judge(left, seen(b"abc", status=201), whole, False).verdict


def test_noise_is_proposed_and_not_learned():
    """
    A proposal has an owner, a share and an expiry; only an agreed one counts, for as long
    as it hasn't expired.
    """
    noise = Noise()
    for n in range(200):
        found = [Difference(Kind.VALUE, f"$.rows[{n}].at")] if n % 4 == 0 else []
        noise.saw(found)
        if n < 199:
            assert [] == noise.proposals("ops", 0.0)

    [proposal] = noise.proposals("ops", 1000.0)

    assert ("$.rows[*].at", "ops", 0.25) == (proposal.rule, proposal.owner, proposal.share)
    left, right = seen({"rows": [{"at": 1}]}), seen({"rows": [{"at": 2}]})
    rules = Rules()
    agreed = [proposal.accepted("me")]
    before, after = rules.agreed(agreed, 1000.0), rules.agreed(agreed, proposal.expires)
    assert Verdict.DIFFERENT is judge(left, right, None, False, rules).verdict
    assert Verdict.SAME is judge(left, right, None, False, before).verdict
    assert Verdict.DIFFERENT is judge(left, right, None, False, after).verdict
    assert "me" == agreed[0].owner


def test_chaos_is_bounded():
    """
    A route that differs everywhere costs no more memory than one that is noisy.
    """
    noise = Noise(most=3)
    for n in range(10):
        noise.saw([Difference(Kind.VALUE, f"$.{'abcdefghij'[n]}")])

    assert 3 == len(noise.places)


def test_evidence_is_of_the_code():
    """
    Another file, version or rule makes another identity; the order of files doesn't.
    """
    files = [("a.py", b"1"), ("b.py", b"2")]

    assert digest_of(files) == digest_of(reversed(files))
    assert digest_of(files) != digest_of([("a.py", b"1"), ("b.py", b"3")])
    assert digest_of(files) != digest_of([("a.py", b"1"), ("c.py", b"2")])
    base = identity_of("1", "2", Rules())
    assert base == identity_of("1", "2", Rules())
    others = [
        identity_of("1", "3", Rules()),
        identity_of("2", "2", Rules()),
        identity_of("1", "2", Rules(("$.a",))),
        identity_of("1", "2", Rules(tolerate={"$.a": 1.0})),
        identity_of("1", "2", Rules(), ["$.a"]),
    ]
    assert 5 == len({*others} - {base})


def test_agreed_rules_that_expired_leave_no_trace():
    """
    Without a rule in force the policy's rules are these very rules.
    """
    rules = Rules(("$.a",))

    assert rules is rules.agreed([Agreed("$.b", "me", 5.0)], 5.0)


def test_recording_keeps_a_prefix():
    """
    A gibibyte is not held: a prefix and a digest are.
    """
    recording = Recording(0.0, Capture(prefix=10, limit=100))
    recording.started(200, [], 0.5)
    for _ in range(1000):
        recording.wrote(b"x" * 7)

    observation = recording.closed(Ending.COMPLETE, 1.0)

    assert (7000, b"x" * 10, True, False) == (
        observation.size,
        observation.prefix,
        observation.truncated,
        observation.whole,
    )
    assert 0.5 == observation.latency
    assert recording.flooded


def test_recording_closes_once():
    """
    The first ending is the ending, and whoever waits hears of it once.
    """
    heard = []
    recording = Recording(0.0, on_closed=lambda: heard.append(1))

    first = recording.closed(Ending.DEADLINE, 1.0)

    assert first is recording.closed(Ending.COMPLETE, 2.0)
    assert [1] == heard
    assert first is recording.so_far()


def test_effects_have_a_limit():
    """
    A handler that says too much is heard up to a limit.
    """
    recording = Recording(0.0, Capture(effects=2))
    for n in range(5):
        recording.effect("row", f"t:{n}")

    assert 2 == len(recording.closed(Ending.COMPLETE, 1.0).effects)


def test_enough_of_a_stream():
    """
    Events are counted across the borders of chunks.
    """
    recording = Recording(0.0, Capture(events=2))
    for chunk in (b"data: 1\n", b"\ndata: 2", b"\n", b"\n"):
        assert not recording.enough
        recording.wrote(chunk)

    assert recording.enough
    assert not Recording(0.0).enough
