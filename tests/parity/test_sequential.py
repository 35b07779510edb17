"""
The two sequential tests: their figures, and their errors, computed and drawn.
"""

from __future__ import annotations

import random
import statistics
from collections import defaultdict

import pytest

from bridge.parity.sequential import Answer, ShareTest, SplitTest


def test_326_clean_pairs_pass():
    """
    The figures of the defaults: 326 clean pairs, and 254 more for each mismatch.
    """
    test = ShareTest()

    assert (Answer.OPEN, Answer.GOOD) == (test.answer(325, 0), test.answer(326, 0))
    assert 203 == test.needs(123, 0)
    assert [326, 580, 835] == [test.needs(0, mismatches) for mismatches in range(3)]
    assert 0 == test.needs(1000, 0)


def test_one_mismatch_condemns_nothing():
    """
    The second within a short run does.
    """
    test = ShareTest()

    assert Answer.OPEN is test.answer(0, 1)
    assert Answer.BAD is test.answer(100, 2)
    assert Answer.OPEN is test.answer(400, 2)


def errors(test: ShareTest, p: float, most: int = 6000) -> tuple[float, float]:
    """
    How probably a route with that share of mismatches is called good, or bad, at any
    of all looks: computed over all ways, not drawn.
    """
    ways, good, bad = {0: 1.0}, 0.0, 0.0
    for n in range(1, most):
        then: dict[int, float] = defaultdict(float)
        for k, weight in ways.items():
            for more, chance in ((0, 1 - p), (1, p)):
                answer = test.answer(n - k - more, k + more)
                if answer is Answer.GOOD:
                    good += weight * chance
                elif answer is Answer.BAD:
                    bad += weight * chance
                elif weight * chance > 1e-12:
                    then[k + more] += weight * chance
        ways = then
        if sum(ways.values()) < 1e-7:
            break
    return good, bad


def test_the_errors_are_what_was_promised():
    """
    A route at p1 is promoted in less than 5 %, one at p0 refused in less than 5 %,
    however often one looks.  (With Wald's own upper bound it is 5.11 %.)
    """
    good, _ = errors(ShareTest(), 0.01)
    _, bad = errors(ShareTest(), 0.001)

    assert 0.045 < good < 0.05
    assert bad < 0.05


def drawn(test: ShareTest, p: float, dice: random.Random) -> Answer:
    clean = mismatches = 0
    while True:
        if dice.random() < p:
            mismatches += 1
        else:
            clean += 1
        answer = test.answer(clean, mismatches)
        if answer is not Answer.OPEN:
            return answer


def test_promotion_errors_under_continuous_peeking():
    """
    Ten thousand routes with shares of mismatches from p1 up: at most one in twenty is
    promoted.
    """
    dice = random.Random(6)
    test = ShareTest()

    wrong = sum(drawn(test, dice.uniform(0.01, 0.03), dice) is Answer.GOOD for _ in range(10_000))

    assert wrong <= 500


def requests_until_back(regression: float, dice: random.Random, flaky: float = 0.0, most: int = 10_000) -> int | None:
    """
    How many requests pass until a route is taken back; None if it isn't.
    """
    test, evidence = SplitTest(), 0.0
    for n in range(1, most + 1):
        modern = dice.random() < flaky or dice.random() < regression
        legacy = flaky > 0 and dice.random() < flaky
        if modern != legacy:
            evidence = test.after(evidence, against=modern)
            if test.condemns(evidence):
                return n
    return None


def test_eight_against_none_take_a_route_back():
    """
    Seven discordant pairs are too few.
    """
    test, evidence, needed = SplitTest(), 0.0, 0
    while not test.condemns(evidence):
        evidence, needed = test.after(evidence, against=True), needed + 1

    assert 8 == needed
    assert test.condemns(test.of_counts(8, 0))
    assert not test.condemns(test.of_counts(8, 1))


def test_a_regression_is_taken_back():
    """
    A real regression of 5 % goes back within 250 requests in the median, also after a
    long good past.
    """
    dice = random.Random(6)
    found = [requests_until_back(0.05, dice) or 10_000 for _ in range(501)]

    assert statistics.median(found) <= 250


@pytest.mark.parametrize("flaky", [0.01, 0.05, 0.2, 0.5])
def test_flaky_routes_stay(flaky):
    """
    Of a hundred healthy but flaky routes at most five go back in 10,000 requests each.
    """
    dice = random.Random(6)

    back = sum(requests_until_back(0.0, dice, flaky) is not None for _ in range(100))

    assert back <= 5


def test_deterministic_routes_never_go_back():
    """
    Where nothing differs there is no discordant pair, and so no way back.
    """
    assert all(requests_until_back(0.0, random.Random(n), most=1000) is None for n in range(100))


def test_a_good_past_does_not_pay_for_a_bad_present():
    """
    However long a flaky route was well, a complete regression goes back soon.
    """
    test, evidence = SplitTest(), 0.0
    for _ in range(100_000):
        evidence = test.after(evidence, against=False)
    needed = 0
    while not test.condemns(evidence):
        evidence, needed = test.after(evidence, against=True), needed + 1

    assert needed <= 24
