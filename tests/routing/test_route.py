"""
One route: canaries that stick, samples, and what is refused when it is made.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.routing import Effects, Route, RouteTable, Selector, SelectorKind, Side, Stage, canary_place
from tests.routing.test_table import Asked


def decide(route: Route, asked: Asked) -> tuple[Side, Side | None]:
    decision = RouteTable.build([route]).decide(b"GET", b"/x", asked)
    return decision.answers, decision.shadows


def test_a_canary_takes_its_share_of_subjects() -> None:
    """
    Of 10,000 subjects, 5 % go to modern, within what a fair hash gives.
    """
    route = Route("GET /x", stage=Stage.CANARY, weight=5)

    moved = sum(decide(route, Asked(b"client-%d" % n))[0] is Side.MODERN for n in range(10_000))

    assert 400 < moved < 600


@given(st.binary(min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_weight_takes_nobody_back(subject: bytes, one: float, two: float) -> None:
    """
    Who was moved at 5 % is still moved at 20 %: a client never flips to and fro.
    """
    low, high = sorted([one, two])
    at_low = decide(Route("GET /x", stage=Stage.CANARY, weight=low), Asked(subject))[0]
    at_high = decide(Route("GET /x", stage=Stage.CANARY, weight=high), Asked(subject))[0]

    assert not (at_low is Side.MODERN and at_high is Side.LEGACY)


def test_the_ends_of_the_scale_are_exact() -> None:
    """
    0 % moves nobody and 100 % everybody.
    """
    for n in range(200):
        asked = Asked(b"%d" % n)
        assert decide(Route("GET /x", stage=Stage.CANARY, weight=0), asked)[0] is Side.LEGACY
        assert decide(Route("GET /x", stage=Stage.CANARY, weight=100), asked)[0] is Side.MODERN


def test_the_place_of_a_subject_never_changes() -> None:
    """
    The hash is part of the contract: other hosts and later versions must agree with it.
    """
    assert canary_place("GET /x", b"alice") == canary_place("GET /x", b"alice")
    assert canary_place("s", b"alice") == 2800
    assert canary_place("s" * 100, b"alice") == 145


def test_two_canaries_pick_different_clients() -> None:
    """
    The salt is the route's name, so that no client gets every experiment.
    """
    places = {salt: [canary_place(salt, b"%d" % n) < 500 for n in range(1000)] for salt in ("GET /x", "GET /y")}

    assert places["GET /x"] != places["GET /y"]


def test_a_request_without_a_subject_stays_with_legacy() -> None:
    """
    All that lack the header would move as one herd, at any weight.
    """
    route = Route("GET /x", stage=Stage.CANARY, weight=100, selector=Selector(SelectorKind.HEADER, "x-client"))

    assert decide(route, Asked(b""))[0] is Side.LEGACY


def test_a_canary_by_requests_draws_lots() -> None:
    """
    Where one caller asks for all, a share of its requests goes to modern; nobody is asked who it is.
    """
    route = Route("GET /x", stage=Stage.CANARY, weight=5, selector=Selector.parse("request"))
    lots = [Asked(b"one caller", dice=n / 1000) for n in range(1000)]

    assert 50 == sum(decide(route, asked)[0] is Side.MODERN for asked in lots)
    assert {("dice",)} == {tuple(asked.questions) for asked in lots}
    assert Side.LEGACY is decide(attrs.evolve(route, weight=0), Asked(dice=0.0))[0]
    assert Side.MODERN is decide(attrs.evolve(route, weight=100), Asked(dice=0.9999))[0]
    with pytest.raises(ValueError, match="request takes no name"):
        Selector.parse("request:x")


@pytest.mark.parametrize(("side", "weight"), [(Side.LEGACY, 0), (Side.MODERN, 100)])
def test_in_a_canary_the_other_side_shadows(side: Side, weight: float) -> None:
    """
    Both halves of a canary are compared.
    """
    assert decide(Route("GET /x", stage=Stage.CANARY, weight=weight), Asked(b"x")) == (side, side.other)


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.CANARY, Stage.LIVE])
def test_the_sample_is_the_share_that_is_shadowed(stage: Stage) -> None:
    """
    Below it the other side is observed, from it on it isn't, and who answers is the same.
    """
    route = Route("GET /x", stage=stage, sample=0.25)

    inside, outside = decide(route, Asked(b"x", 0.2499)), decide(route, Asked(b"x", 0.25))

    assert inside[1] is inside[0].other
    assert outside[1] is None
    assert inside[0] is outside[0]


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.CANARY, Stage.LIVE])
@pytest.mark.parametrize("sample", [0.0, 0.25])
def test_every_sandboxed_write_is_shadowed(stage: Stage, sample: float) -> None:
    """
    Whatever the sample: a copy that misses a write stands elsewhere than its store from then on.

    Seen to fail with the sample counted for all effects.
    """
    route = Route("GET /x", stage=stage, sample=sample, effects=Effects.SANDBOXED)

    answers, shadows = decide(route, Asked(b"x", 0.9))

    assert shadows is answers.other


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.LIVE])
def test_a_sample_of_nothing_asks_nothing(stage: Stage) -> None:
    """
    sample = 0 switches shadows off, at no cost.
    """
    asked = Asked()

    assert decide(Route("GET /x", stage=stage, sample=0), asked)[1] is None
    assert asked.questions == []


def test_a_declared_write_shadows_on_its_sandbox() -> None:
    """
    Effects are what their owner declared.
    """
    table = RouteTable.build([Route("POST /x", stage=Stage.SHADOW, effects=Effects.SANDBOXED)])

    assert table.decide(b"POST", b"/x", Asked()).shadows is Side.MODERN


@pytest.mark.parametrize("wrong", [{"weight": 101}, {"weight": -1}, {"sample": 1.5}, {"sample": -0.1}])
def test_a_share_outside_its_scale_is_refused(wrong: dict[str, float]) -> None:
    """
    A weight is a percentage, a sample a share.
    """
    with pytest.raises(ValueError):
        Route("GET /x", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["GET /x/{other}", None])
def test_a_canary_by_a_parameter_that_is_not_there_is_refused(pattern: str | None) -> None:
    """
    The mistake shows when the route is made, not at the first request.
    """
    with pytest.raises(ValueError, match="user"):
        Route(pattern, selector=Selector(SelectorKind.PATH, "user"))


def test_sides_and_stages_know_their_neighbours() -> None:
    """
    The order of the stages is the order of the migration.
    """
    assert Side.LEGACY.other is Side.MODERN
    assert Side.MODERN.other is Side.LEGACY
    assert [stage.step for stage in Stage] == [0, 1, 2, 3, 4, 5]
    assert Stage.LIVE.next is Stage.MODERN
    assert Stage.RETIRED.next is None


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("client", SelectorKind.CLIENT, ""),
        ("header:X-Client-Id", SelectorKind.HEADER, "x-client-id"),
        ("cookie:Session", SelectorKind.COOKIE, "Session"),
        ("path:user", SelectorKind.PATH, "user"),
    ],
)
def test_a_selector_is_read_and_written(text: str, kind: SelectorKind, name: str) -> None:
    """
    Header names know no case, cookies and parameters do.
    """
    found = Selector.parse(text)

    assert found == Selector(kind, name)
    assert Selector.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "clients", "client:x", "header", "header:", "query:x"])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    """
    The message shows what could have been written.
    """
    with pytest.raises(ValueError, match=r"client|names no"):
        Selector.parse(text)
