"""
The policy: every key of the page is read, and whatever can't be used is refused by file and key path.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config import (
    EVERYTHING,
    AppConfig,
    GateConfig,
    LoopConfig,
    RollbackConfig,
    empty_config,
    parse_config,
    state_url,
)
from bridge.errors import ConfigError, NotBuiltError
from bridge.routing import Effects, Selector, SelectorKind, Side, Stage

BASE = Path("/srv/app")
APPS = '[legacy]\napp = "a:b"\n[modern]\napp = "c:d"\n'

WHOLE = """
listen = ["tcp:8000:interface=127.0.0.1", "unix:/run/b.sock"]
admin = "tcp:8001:interface=127.0.0.1"
state = "sqlite:///bgserver.db"
grace = 2
force_legacy = false
front = "uvicorn"
site = "tcp:9000"

[legacy]
app = "legacy_twisted.server:make_service"
version = "2026.1"
session = "app:View"
[legacy.settings]
data = "./data"
[legacy.sandbox]
data = "./copy"

[modern]
app = "modern_fastapi.app:create_app"

[gate]
aa = 100
p0 = 0.002
p1 = 0.02
alpha = 0.01
beta = 0.02
seen = 5
floor = 60
rollback = { p0 = 0.4, p1 = 0.8, alpha = 0.02, beta = 0.03 }

[routes]
stage = "legacy"
promote = "manual"
sample = 0.5

[[route]]
match = "get /export/{export_id}"
stage = "shadow"
promote = "auto"
effects = "none"
outcomes = [200, 404]
canary = { weight = 5, subject = "header:X-Client-Id", salt = "s" }
ignore = ["header:ETag", "$.generated_at"]
tolerate = { "$.eta" = 1.0 }

[[route]]
match = "POST /log"
stream = true

[[loop]]
name = "consumer"
legacy = "service:consumer"
modern = "consumer"
stage = "legacy"
lease = 3
drain = 1.5
"""


def refused(text: str, built: frozenset[str] = EVERYTHING) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.toml", BASE, built)
    assert str(caught.value).startswith("f.toml: ")
    return caught.value


def test_every_key_of_the_page_is_read() -> None:
    """
    The whole of the documented policy arrives, each value in its place.
    """
    config = parse_config(WHOLE, "f.toml", BASE)

    export, log = config.routes
    assert config.listen == ("tcp:8000:interface=127.0.0.1", "unix:/run/b.sock")
    assert (config.admin, config.grace, config.front) == ("tcp:8001:interface=127.0.0.1", 2.0, "uvicorn")
    assert (config.site, config.loop, config.force_legacy) == ("tcp:9000", "auto", False)
    assert config.state == "sqlite:////srv/app/bgserver.db"
    assert config.legacy == AppConfig(
        "legacy_twisted.server:make_service", {"data": "./data"}, {"data": "./copy"}, "2026.1", "app:View", BASE
    )
    assert config.modern == AppConfig("modern_fastapi.app:create_app", base=BASE)
    assert config.gate == GateConfig(100, 0.002, 0.02, 0.01, 0.02, 5, 60.0, RollbackConfig(0.4, 0.8, 0.02, 0.03))
    assert (export.name, export.stage, export.promote) == ("GET /export/{export_id}", Stage.SHADOW, "auto")
    assert (export.effects, export.outcomes, export.weight) == (Effects.NONE, (200, 404), 5.0)
    assert (export.selector, export.salt) == (Selector(SelectorKind.HEADER, "x-client-id"), "s")
    assert (export.ignore, export.tolerate) == (("header:etag", "$.generated_at"), {"$.eta": 1.0})
    assert (export.sample, export.stream) == (0.5, False)
    assert (log.effects, log.stream, log.stage, log.sample) == (Effects.EXTERNAL, True, Stage.LEGACY, 0.5)
    assert config.default_route.name == "default"
    assert config.loops == (LoopConfig("consumer", "service:consumer", "consumer", "legacy", 3.0, 1.5),)


def test_an_empty_policy_is_all_legacy() -> None:
    """
    Nothing said is nothing moved.
    """
    config = parse_config("", "f.toml", BASE)

    assert (config.listen, config.admin, config.grace) == ((), "off", 4.0)
    assert (config.routes, config.loops, config.legacy, config.modern) == ((), (), None, None)
    assert config.default_route.stage is Stage.LEGACY
    assert empty_config(BASE).table({}).default.stage is Stage.LEGACY


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("x =", "", "no TOML"),
        ("lisen = []", "lisen", "'listen'"),
        ("[route.x]", "route", "list of tables"),
        ("[[routes]]", "routes", "wants a table"),
        ("qqqqq = 1", "qqqqq", "known here"),
        ("listen = 'tcp:1'", "listen", "list"),
        ("listen = [1]", "listen", "text"),
        ("listen = ['8000']", "listen", "tcp:8000"),
        ("listen = ['tcp:']", "listen", "no listener"),
        ("listen = ['tcp:70000']", "listen", "65535"),
        ("listen = ['tcp:http']", "listen", "no port"),
        ("admin = true", "admin", "text"),
        ("state = 'bgserver.db'", "state", "sqlite:///"),
        ("reuse_port = 1", "reuse_port", "true or false"),
        ("trusted_proxies = '10.0.0.1'", "trusted_proxies", "list"),
        ("trusted_proxies = ['*']", "trusted_proxies", "10.0.0.0/8, or unix"),
        ("trusted_proxies = ['10.0.0.1/8']", "trusted_proxies", "host bits"),
        ("grace = true", "grace", "number"),
        ("grace = nan", "grace", "nan"),
        ("grace = -1", "grace", "-1"),
        ("force_legacy = 'yes'", "force_legacy", "true or false"),
        ("front = 'apache'", "front", "uvicorn"),
        ("loop = 'auto'", "loop", "list of tables"),
        ("site = ''", "site", "text"),
        ("[legacy]", "legacy.app", "missing"),
        ("[legacy]\napp = 1", "legacy.app", "text"),
        ("[legacy]\napp = 'a:b'\nsetings = {}", "legacy.setings", "'settings'"),
        ("[legacy]\napp = 'a:b'\nsettings = 1", "legacy.settings", "table"),
        ("[gate]\naa = 1.5", "gate.aa", "whole"),
        ("[gate]\np0 = 0", "gate.p0", "between 0 and 1"),
        ("[gate]\np0 = 0.5", "gate.p0", "below p1"),
        ("[gate]\nrollback = { p0 = 0.95 }", "gate.rollback.p0", "below p1"),
        ("[gate]\nrollback = { p = 0.95 }", "gate.rollback.p", "'p1'"),
        ("[gate]\nalfa = 1", "gate.alfa", "'alpha'"),
        ("[routes]\nstage = 'shadw'", "routes.stage", "'shadow'"),
        ("[routes]\neffects = 'none'", "routes.effects", "no such key"),
        ("[routes]\nstage = 'modern'", "routes.stage", "[modern]"),
        ("[[route]]", "route[0].match", "missing"),
        ("[[route]]\nmatch = 'GET'", "route[0].match", "no route"),
        ("[[route]]\nmatch = 'GET /a'\n[[route]]\nmatch = 'GET /a'", "route[1].match", "both match"),
        ("[[route]]\nmatch = 'GET /a'\nstage = 'live'", "route[0].stage", "[modern]"),
        ("[[route]]\nmatch = 'GET /a'\nsample = 2", "route[0].sample", "from 0 to 1"),
        ("[[route]]\nmatch = 'GET /a'\npromote = 'yes'", "route[0].promote", "manual"),
        ("[[route]]\nmatch = 'GET /a'\neffects = 'some'", "route[0].effects", "sandboxed"),
        ("[[route]]\nmatch = 'GET /a'\noutcomes = [99]", "route[0].outcomes", "100"),
        ("[[route]]\nmatch = 'GET /a'\noutcomes = [600]", "route[0].outcomes", "599"),
        ("[[route]]\nmatch = 'GET /a'\ncanary = { weight = 101 }", "route[0].canary.weight", "101"),
        ("[[route]]\nmatch = 'GET /a'\npromote = 'auto'\ncanary.weight = 0", "route[0].canary.weight", "for ever"),
        ("[routes]\npromote = 'auto'\ncanary = { weight = 0 }", "routes.canary.weight", "for ever"),
        ("[[route]]\nmatch = 'GET /a'\ncanary = { subject = 'ip' }", "route[0].canary.subject", "client"),
        ("[[route]]\nmatch = 'GET /a'\ncanary = { subject = 'path:u' }", "route[0].canary.subject", "'u'"),
        ("[[route]]\nmatch = 'GET /a'\ncanary = { wait = 1 }", "route[0].canary.wait", "'weight'"),
        ("[[route]]\nmatch = 'GET /a'\nignore = ['etag']", "route[0].ignore", "header:NAME"),
        ("[[route]]\nmatch = 'GET /a'\ntolerate = { eta = 1 }", "route[0].tolerate", "$.eta"),
        ("[[route]]\nmatch = 'GET /a'\ntolerate = { '$.eta' = -1 }", "route[0].tolerate", "-1"),
        ("[[route]]\nmatch = 'GET /a'\nigore = []", "route[0].igore", "'ignore'"),
        ("[[loop]]\nlegacy = 'service:x'", "loop[0].name", "missing"),
        ("[[loop]]\nname = 'x'", "loop[0].legacy", "missing"),
        ("[[loop]]\nname = 'x'\nlegacy = 'x'", "loop[0].legacy", "service:NAME"),
        ("[[loop]]\nname = 'x'\nlegacy = 'service:x'\nstage = 'live'", "loop[0].modern", "needs it"),
        ("[[loop]]\nname = 'x'\nlegacy = 'service:x'\nstage = 'shadow'", "loop[0].stage", "handoff"),
        (
            "[[loop]]\nname = 'x'\nlegacy = 'service:x'\n[[loop]]\nname = 'x'\nlegacy = 'service:x'",
            "loop[1].name",
            "twice",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_key(text: str, key: str, says: str) -> None:
    """
    One line with the file, the path of the key, and what would be right.
    """
    error = refused(text)

    assert error.key == key
    assert says in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("feature", "text", "key"),
    [
        ("front:twisted", "front = 'twisted'", "front"),
        ("admin", "admin = 'tcp:8001'", "admin"),
        ("stage:shadow", APPS + "[routes]\nstage = 'shadow'", "routes.stage"),
        ("promote:auto", "[[route]]\nmatch = 'GET /a'\npromote = 'auto'", "route[0].promote"),
        ("effects:sandboxed", "[[route]]\nmatch = 'POST /a'\neffects = 'sandboxed'", "route[0].effects"),
        ("loop", "[[loop]]\nname = 'x'\nlegacy = 'service:x'", "loop[0].name"),
        (
            "loop-stage:live",
            "[[loop]]\nname = 'x'\nlegacy = 'service:x'\nmodern = 'x'\nstage = 'live'",
            "loop[0].stage",
        ),
    ],
)
def test_what_is_not_built_is_refused_by_name(feature: str, text: str, key: str) -> None:
    """
    A later version's word isn't a typo: the error says that it isn't there yet, and it is taken where it is.
    """
    error = refused(text, EVERYTHING - {feature})

    assert isinstance(error, NotBuiltError)
    assert error.key == key
    assert "not part of this version" in str(error)
    parse_config(text, "f.toml", BASE)


def test_the_state_wins_over_the_start_stage() -> None:
    """
    Once there, the database's stage and weight count; a route of yesterday's policy is left out.
    """
    config = parse_config(APPS + "[[route]]\nmatch = 'GET /a'\n[[route]]\nmatch = 'GET /b'", "f.toml", BASE)

    table = config.table({"GET /a": (Stage.CANARY, 10.0), "GET /gone": (Stage.LIVE, 0.0)}, 7)

    assert table.version == 7
    assert (table.route("GET /a").stage, table.route("GET /a").weight) == (Stage.CANARY, 10.0)
    assert table.route("GET /b").stage is Stage.LEGACY
    assert [route.name for route in table.routes] == ["GET /a", "GET /b"]


def test_without_a_modern_application_everything_is_legacy() -> None:
    """
    A state that was moved before must not route to nobody.
    """
    config = parse_config("[[route]]\nmatch = 'GET /a'", "f.toml", BASE)

    table = config.table({"GET /a": (Stage.MODERN, 0.0), "default": (Stage.LIVE, 0.0)})

    assert table.route("GET /a").stage is Stage.LEGACY
    assert table.default.stage is Stage.LEGACY


def test_force_legacy_reaches_the_table() -> None:
    """
    The switch in the file is the switch in the table.
    """
    config = parse_config("force_legacy = true\n" + APPS + "[routes]\nstage = 'modern'", "f.toml", BASE)

    class Asked:
        def subject(self, selector: Selector) -> bytes:
            raise AssertionError

        def dice(self) -> float:
            raise AssertionError

    assert config.table({}).decide(b"GET", b"/", Asked()).answers is Side.LEGACY


def test_options_win_over_the_file() -> None:
    """
    Each option that was given replaces the file's value; each that wasn't leaves it.
    """
    config = parse_config(WHOLE, "f.toml", BASE)
    here = Path("/home/me")

    same = config.merged(base=here)
    other = config.merged(
        base=here,
        listen=["tcp:1"],
        admin="off",
        state="sqlite:///x.db",
        front="twisted",
        loop="uvloop",
        site="tcp:2",
        legacy="./server.tac",
        modern="m:n",
        force_legacy=True,
    )

    assert same == config
    assert other.options >= {"listen", "legacy", "force_legacy"}
    assert (other.listen, other.admin, other.front, other.loop) == (("tcp:1",), "off", "twisted", "uvloop")
    assert (other.state, other.site, other.force_legacy) == ("sqlite:////home/me/x.db", "tcp:2", True)
    assert other.legacy is not None
    assert (other.legacy.app, other.legacy.base) == ("./server.tac", here)
    assert other.legacy.settings == {"data": "./data"}
    assert other.modern == AppConfig("m:n", base=here)
    assert other.routes == config.routes


def test_an_option_names_an_application_where_there_was_none() -> None:
    """
    --legacy alone is a whole policy.
    """
    config = empty_config(BASE).merged(base=BASE, legacy="a:b")

    assert config.legacy == AppConfig("a:b", base=BASE)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("loop", "epoll", "--loop"), ("front", "x", "--front"), ("listen", ["x"], "--listen"), ("admin", "1", "--admin")],
)
def test_a_wrong_option_is_named_as_it_was_typed(option: str, value: object, says: str) -> None:
    """
    An option isn't a key of a file.
    """
    with pytest.raises(ConfigError, match=says):
        empty_config(BASE).merged(base=BASE, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("sqlite:///bgserver.db", "sqlite:////srv/app/bgserver.db"),
        ("sqlite+pysqlite:///var/b.db", "sqlite+pysqlite:////srv/app/var/b.db"),
        ("sqlite:////abs/b.db", "sqlite:////abs/b.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://u@h/name", "postgresql://u@h/name"),
    ],
)
def test_a_relative_database_starts_at_the_folder_of_the_policy(url: str, resolved: str) -> None:
    """
    Wherever the server is started from, it opens the same state.
    """
    assert state_url(url, BASE) == resolved


def test_an_endpoint_may_name_its_port_by_keyword() -> None:
    """
    Twisted's endpoint strings allow keywords; their whole grammar stays Twisted's.
    """
    assert parse_config("listen = ['tcp:port=8000', 'tcp:interface=::1']", "f.toml", BASE).listen


def test_a_move_costs_no_more_than_what_moved() -> None:
    """
    The second table of a policy keeps every route that stands where it stood, and the first one stays as it was.
    """
    config = parse_config(APPS + "[[route]]\nmatch = 'GET /a'\n[[route]]\nmatch = 'GET /b'", "f.toml", BASE)
    first = config.table({})

    second = config.table(
        {"GET /a": (Stage.LIVE, 0.0), "default": (Stage.MODERN, 0.0), "GET /gone": (Stage.LIVE, 0.0)}, 1
    )
    third = config.table({}, 2)

    assert (second.route("GET /a").stage, second.default.stage, second.version) == (Stage.LIVE, Stage.MODERN, 1)
    assert second.route("GET /b") is first.route("GET /b")
    assert [t.route("GET /a").stage for t in (first, third)] == [Stage.LEGACY, Stage.LEGACY]


def test_listeners_are_shared_and_proxies_named() -> None:
    """
    Both are off where the file says nothing, and options don't say them.
    """
    text = 'reuse_port = true\ntrusted_proxies = ["10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix"]\n'
    said = parse_config(text + '[legacy]\napp = "a:b"\n', "x.toml", Path("/"))
    silent = parse_config('[legacy]\napp = "a:b"\n', "x.toml", Path("/"))

    assert (True, ("10.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix")) == (said.reuse_port, said.trusted_proxies)
    assert (False, ()) == (silent.reuse_port, silent.trusted_proxies)
    assert said.trusted_proxies == said.merged(base=Path("/"), listen=["tcp:1"]).trusted_proxies


KEYS = {
    "": [
        "listen", "reuse_port", "trusted_proxies", "admin", "state", "grace", "force_legacy", "front", "site", "loop",
        "unknown",
    ],
    "legacy": ["app", "settings", "sandbox", "version", "unknown"],
    "modern": ["app", "settings", "sandbox", "version"],
    "gate": ["aa", "p0", "p1", "alpha", "beta", "seen", "floor", "rollback"],
    "routes": ["stage", "promote", "sample", "canary", "outcomes", "ignore", "tolerate", "stream", "effects"],
    "[route]": ["match", "stage", "promote", "sample", "effects", "outcomes", "canary", "ignore", "tolerate", "stream"],
    "[loop]": ["name", "legacy", "modern", "stage", "lease", "drain"],
}
VALUES = [
    "0", "-1", "1.5", "nan", "inf", "true", "''", "'x'", "'tcp:'", "'tcp:0'", "'off'", "'a:b'", "'sqlite:///x'",
    "'GET /a'", "'GET /{a}'", "'POST,GET /a'", "'shadow'", "'live'", "'auto'", "'none'", "'service:x'", "[]", "['x']",
    "['$.x', 'header:y']", "[1, 200]", "[[]]", "{}", "{weight = 5}", "{weight = -5, subject = 'path:a'}",
    "{'$.x' = 1}", "{p0 = 0.1, p1 = 0.2}", "{p0 = 2}", "2026-01-01", "1e400", "99999999999999999999",
]  # fmt: skip


@st.composite
def policies(draw: st.DrawFn) -> str:
    """
    Every table that there is, with some of its keys, and any value in each.
    """
    lines = []
    for table, keys in KEYS.items():
        if table and not draw(st.booleans()):
            continue
        for _ in range(draw(st.integers(1, 2)) if table.startswith("[") else 1):
            lines.append(f"[{table}]" if table else "")
            some = draw(st.lists(st.sampled_from(keys), unique=True, max_size=4))
            lines += [f"{key} = {draw(st.sampled_from(VALUES))}" for key in some]
    return "\n".join(lines)


@given(policies())
def test_whatever_is_written_is_used_or_refused(text: str) -> None:
    """
    A policy never ends in a traceback: it is a Config, or an error with the file's name.
    """
    try:
        config = parse_config(text, "f.toml", BASE)
    except ConfigError as error:
        assert str(error).startswith("f.toml: ")
    else:
        assert config.table({}).default.name == "default"


def test_what_a_version_lacks_is_refused_wherever_it_is_asked_for() -> None:
    """
    A policy knows what its version has, so that a move is refused by name like a start.
    """
    config = attrs.evolve(empty_config(BASE), built=frozenset({"stage:legacy"}))

    config.need("stage:legacy", "the stage legacy")
    with pytest.raises(NotBuiltError, match="the stage live is not part of this version yet"):
        config.need("stage:live", "the stage live")
