"""
The look-up: one request, one prebuilt decision, the same that reading the patterns one by one would give.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RouteConflictError, UnknownRouteError
from bridge.routing import Cell, Pattern, Route, RouteTable, Selector, SelectorKind, Side, Stage, resolve
from bridge.routing.pattern import Literal, Parameter, Rest


class Asked:
    """
    A request's answers, and what was asked of it.
    """

    def __init__(self, subject: bytes = b"", dice: float = 0.0) -> None:
        self.found = subject
        self.thrown = dice
        self.questions: list[object] = []

    def subject(self, selector: Selector) -> bytes:
        self.questions.append(selector)
        return self.found

    def dice(self) -> float:
        self.questions.append("dice")
        return self.thrown


def name_of(table: RouteTable, method: bytes, raw_path: bytes) -> str:
    return table.decide(method, raw_path, Asked()).route.name


def linear(routes: list[Route], method: bytes, raw_path: bytes) -> str:
    """
    The plain meaning: of all that match, the most exact from the left.
    """
    kind = {Literal: 0, Parameter: 1, Rest: 2}
    found = [r for r in routes if r.pattern is not None and r.pattern.matches(method, raw_path)]
    if not found:
        return "default"
    return min(found, key=lambda r: [kind[type(s)] for s in r.pattern.segments] if r.pattern else []).name


segments = st.sampled_from(["a", "b", "%2F", "a%2Fb", "%25", "", "%41", "é"])
parts = st.one_of(segments, st.sampled_from(["{x}", "{y}", "{z}"]))
methods = st.sampled_from(["GET", "POST", "GET,POST", "HEAD", "DELETE"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    chosen = draw(st.lists(parts, min_size=1, max_size=4, unique_by=lambda p: p if p.startswith("{") else object()))
    if draw(st.booleans()):
        chosen.append("{rest:path}")
    return f"{draw(methods)} /{'/'.join(chosen)}"


@given(
    st.lists(texts(), max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from([b"GET", b"HEAD", b"POST", b"DELETE", b"PUT"]),
            st.lists(segments, min_size=1, max_size=6).map(lambda s: ("/" + "/".join(s)).encode()),
        ),
        min_size=1,
        max_size=10,
    ),
)
def test_the_dicts_agree_with_reading_every_pattern(wanted: list[str], requests: list[tuple[bytes, bytes]]) -> None:
    """
    Whatever the routes and the request, the table finds what a linear scan finds.
    """
    routes: list[Route] = []
    for text in wanted:
        try:
            RouteTable.build([*routes, Route(text)])
        except RouteConflictError:
            continue
        routes.append(Route(text))
    table = RouteTable.build(routes)

    for method, raw_path in requests:
        assert name_of(table, method, raw_path) == linear(routes, method, raw_path)


def test_no_decision_is_made_for_a_request() -> None:
    """
    The same question gets the same object: nothing is allocated per request.
    """
    table = RouteTable.build([Route("GET /export/{export_id}", stage=Stage.SHADOW)])

    first = table.decide(b"GET", b"/export/1", Asked())
    second = table.decide(b"GET", b"/export/2", Asked())

    assert first is second


def test_a_settled_stage_asks_the_request_nothing() -> None:
    """
    Where the stage alone decides, neither dice nor subject are read.
    """
    stages = [Stage.LEGACY, Stage.SHADOW, Stage.LIVE, Stage.MODERN, Stage.RETIRED]
    asked = Asked()

    for stage in stages:
        RouteTable.build([Route("GET /x", stage=stage)]).decide(b"GET", b"/x", asked)

    assert asked.questions == []


@pytest.mark.parametrize(
    ("stage", "answers", "shadows"),
    [
        (Stage.LEGACY, Side.LEGACY, None),
        (Stage.SHADOW, Side.LEGACY, Side.MODERN),
        (Stage.LIVE, Side.MODERN, Side.LEGACY),
        (Stage.MODERN, Side.MODERN, None),
        (Stage.RETIRED, Side.MODERN, None),
    ],
)
def test_each_stage_has_its_answering_side_and_its_shadow(stage: Stage, answers: Side, shadows: Side | None) -> None:
    """
    The stages mean what the page of words says.
    """
    table = RouteTable.build([Route("GET /x", stage=stage)])

    decision = table.decide(b"GET", b"/x", Asked())

    assert (decision.answers, decision.shadows) == (answers, shadows)
    assert stage.value in decision.because


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.CANARY, Stage.LIVE])
def test_an_undeclared_write_never_shadows(stage: Stage) -> None:
    """
    After the answer its row is there: the other side would only see a conflict.
    """
    table = RouteTable.build([Route("POST /x", stage=stage, weight=50)])

    decision = table.decide(b"POST", b"/x", Asked(b"anybody"))

    assert decision.shadows is None
    assert "external" in decision.because


def test_head_goes_where_get_goes() -> None:
    """
    GET covers HEAD, so that both move together.
    """
    table = RouteTable.build([Route("GET /x", stage=Stage.MODERN)])

    assert name_of(table, b"HEAD", b"/x") == "GET /x"


def test_an_escaped_slash_is_no_separator() -> None:
    """
    Split at raw slashes, then decoded once (W5): seen to fail with the path decoded before the split.
    """
    table = RouteTable.build([Route("GET /files/{name}"), Route("GET /files/a/b")])

    assert name_of(table, b"GET", b"/files/a%2Fb") == "GET /files/{name}"
    assert name_of(table, b"GET", b"/files/a/b") == "GET /files/a/b"
    assert name_of(table, b"GET", b"/%66iles/a/b") == "GET /files/a/b"
    assert name_of(table, b"GET", b"/%2566iles/a/b") == "default"


def test_a_parameter_takes_no_empty_segment_and_a_trailing_slash_is_another_path() -> None:
    """
    /export/ is not /export/{export_id} with nothing in it.
    """
    table = RouteTable.build([Route("GET /export/{export_id}"), Route("GET /x"), Route("GET /f/{rest:path}")])

    assert name_of(table, b"GET", b"/export/") == "default"
    assert name_of(table, b"GET", b"/x/") == "default"
    assert name_of(table, b"GET", b"/f/") == "GET /f/{rest:path}"
    assert name_of(table, b"GET", b"/f") == "default"


@pytest.mark.parametrize("raw_path", [b"/%6cist", b"/f/%6cist"])
def test_an_escaped_literal_is_more_exact_than_a_parameter_in_its_place(raw_path: bytes) -> None:
    """
    How a client spells a path changes nothing: seen to fail with the short way for a parameter at the end taken
    without a look for escapes.
    """
    table = RouteTable.build([Route(f"GET {under}/{last}") for under in ("", "/f") for last in ("{name}", "list")])

    assert name_of(table, b"GET", raw_path) == "GET " + raw_path.replace(b"%6c", b"l").decode()


@pytest.mark.parametrize("raw_path", [b"*", b"", b"x", b"example.org:443", b"http://example.org/x"])
def test_a_target_that_is_no_path_gets_the_default(raw_path: bytes) -> None:
    """
    OPTIONS *, CONNECT's and absolute targets match no route: seen to fail with a target without a slash taken for
    the last segment.
    """
    table = RouteTable.build([Route("GET /{name}"), Route("GET /{rest:path}")])

    assert name_of(table, b"GET", raw_path) == "default"


def test_two_routes_for_the_same_requests_are_refused() -> None:
    """
    Parameters' names don't tell routes apart; the error names both and the method.
    """
    with pytest.raises(RouteConflictError) as caught:
        RouteTable.build([Route("GET /a/{x}"), Route("POST,GET /a/{y}")])

    assert caught.value.method == "GET"
    assert "GET /a/{x}" in str(caught.value)


def test_a_head_of_its_own_beside_get_is_refused() -> None:
    """
    GET covers HEAD, so a second owner of HEAD would be a conflict.
    """
    with pytest.raises(RouteConflictError):
        RouteTable.build([Route("GET /a"), Route("HEAD /a")])


def test_the_default_shadows_reads_alone() -> None:
    """
    Nobody declared what an unnamed POST does.
    """
    table = RouteTable.build([], Route(None, stage=Stage.SHADOW))

    assert table.decide(b"GET", b"/any", Asked()).shadows is Side.MODERN
    assert table.decide(b"POST", b"/any", Asked()).shadows is None


def test_force_legacy_overrides_every_stage_that_legacy_can_still_answer() -> None:
    """
    The switch for the worst night; only a retired route has no legacy code to go back to.
    """
    routes = [Route(f"GET /{stage.value}", stage=stage, weight=100) for stage in Stage]
    table = RouteTable.build(routes, Route(None, stage=Stage.MODERN), force_legacy=True)

    answers = {stage: table.decide(b"GET", f"/{stage.value}".encode(), Asked(b"x")).answers for stage in Stage}

    assert answers.pop(Stage.RETIRED) is Side.MODERN
    assert set(answers.values()) == {Side.LEGACY}
    assert table.decide(b"GET", b"/other", Asked()).answers is Side.LEGACY
    assert "force_legacy" in table.decide(b"GET", b"/other", Asked()).because


def test_a_route_is_found_however_its_name_is_written() -> None:
    """
    Operators type names by hand: method case, order and escapes don't matter.
    """
    route = Route("POST,GET /a/{x}")
    table = RouteTable.build([route])

    assert table.route("get,post /%61/{x}") is route
    assert table.route("default") is table.default


def test_an_unknown_route_is_refused_with_the_nearest() -> None:
    """
    A slip of the keyboard gets its correction with the refusal.
    """
    with pytest.raises(UnknownRouteError) as caught:
        resolve("GET /exprt", ["GET /export", "POST /log"])
    with pytest.raises(UnknownRouteError) as far:
        resolve("?", ["GET /export"])

    assert caught.value.nearest == "GET /export"
    assert far.value.nearest is None


def test_the_default_route_belongs_to_its_own_argument() -> None:
    """
    A route without a pattern among the routes would match nothing and hide there.
    """
    with pytest.raises(ValueError, match="default"):
        RouteTable.build([Route(None)])


def test_a_swap_gives_the_old_value_back() -> None:
    """
    Who swaps a cell knows what it replaced.
    """
    cell = Cell(1)

    assert (cell.swap(2), cell.value) == (1, 2)


def test_a_canary_by_path_reads_the_parameter_and_asks_nobody() -> None:
    """
    The table has the segments; the request isn't asked for what it can't know.
    """
    route = Route(
        "GET /u/{user}/{rest:path}",
        stage=Stage.CANARY,
        weight=50,
        selector=Selector(SelectorKind.PATH, "user"),
        sample=0.0,
    )
    table = RouteTable.build([route])
    asked = Asked()

    sides = [table.decide(b"GET", b"/u/%d/x" % user, asked).answers for user in range(100)]
    again = [table.decide(b"GET", b"/u/%d/other" % user, asked).answers for user in range(100)]

    assert sides == again
    assert set(sides) == set(Side)
    assert asked.questions == []


def test_a_rest_can_be_the_subject() -> None:
    """
    {rest:path} is one subject, slashes included.
    """
    assert Pattern.parse("GET /f/{rest:path}").value(b"/f/a%2Fb/c", "rest") == b"a/b/c"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(Stage)), max_size=6))
def test_a_moved_table_is_the_table_that_would_be_built(moves: list[tuple[int, Stage]]) -> None:
    """
    Sharing the dicts changes no decision, and the table that a request holds stays as it was.
    """
    texts = ["GET /a", "GET /a/{x}", "POST /a", "GET /f/{rest:path}", None]
    requests = [
        (b"GET", b"/a"),
        (b"GET", b"/a/1"),
        (b"POST", b"/a"),
        (b"GET", b"/f/1/2"),
        (b"PUT", b"/"),
        (b"GET", b"/"),
    ]
    first = table = RouteTable.build([Route(text) for text in texts[:4]])
    standing = dict.fromkeys(texts, Stage.LEGACY)

    for version, (place, stage) in enumerate(moves, 1):
        standing[texts[place]] = stage
        table = table.moved([Route(texts[place], stage=stage, weight=50)], version)
        built = RouteTable.build(
            [Route(text, stage=standing[text], weight=50) for text in texts[:4]], Route(None, stage=standing[None])
        )
        assert table.version == version
        for method, path in requests:
            one, two = (t.decide(method, path, Asked(b"me")) for t in (table, built))
            assert (one.answers, one.shadows, one.because) == (two.answers, two.shadows, two.because)

    assert all(first.decide(*request, Asked()).answers is Side.LEGACY for request in requests)


def test_only_what_is_there_can_be_moved() -> None:
    """
    A new route is a new table.
    """
    with pytest.raises(UnknownRouteError):
        RouteTable.build([Route("GET /a")]).moved([Route("GET /b")], 1)
