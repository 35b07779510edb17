"""
What --legacy and --modern may name, and how a mistake is told.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import IService
from twisted.web.server import Site

from bridge.errors import LoadError
from bridge.web.load import load_legacy, load_modern

LEGACY = """
from twisted.application.service import Application, MultiService, Service
from twisted.web.resource import Resource
from twisted.web.server import Site

resource = Resource()

def make_site():
    return Site(Resource())

def make_service(settings=None):
    made = MultiService()
    made.settings = settings
    return made

def make_application():
    app = Application("it")
    Service().setServiceParent(app)
    return app

def wants_more(settings, database):
    pass

def fails():
    raise ValueError("no database")

class Kleinish:
    def resource(self):
        return Resource()

def runs():
    from twisted.internet import reactor
    reactor.run()

def installs():
    from twisted.internet import selectreactor
    selectreactor.install()

klein = Kleinish()
number = 7
"""
MODERN = """
async def app(scope, receive, send):
    pass

class App:
    async def __call__(self, scope, receive, send):
        pass

instance = App()

def create_app(settings=None):
    made = App()
    made.settings = settings
    return made

def needs_settings(settings):
    made = App()
    made.settings = settings
    return made

def returns_nothing():
    return None

def two(scope):
    pass

text = "no"
"""
TAC = """
from twisted.application.service import Application, Service
application = Application("tac")
Service().setServiceParent(application)
"""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "legacy_of_test.py").write_text(LEGACY)
    (tmp_path / "modern_of_test.py").write_text(MODERN)
    (tmp_path / "broken_of_test.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "crooked_of_test.py").write_text("def (:\n")
    (tmp_path / "ok.tac").write_text(TAC)
    empty = "from twisted.application.service import Application\napplication = Application('e')\n"
    (tmp_path / "empty.tac").write_text(empty)
    (tmp_path / "none.tac").write_text("x = 1\n")
    (tmp_path / "key.tac").write_text("application = {}['application']\n")
    (tmp_path / "runs.tac").write_text(TAC + "from twisted.internet import reactor\nreactor.run()\n")
    (tmp_path / "runs_of_test.py").write_text("from twisted.internet import reactor\nreactor.run()\n")
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in list(sys.modules):
        if name.endswith("_of_test"):
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_legacy_forms(base: Path) -> None:
    """
    Every form that DESIGN.md lists gives a Site or a service.
    """
    sites = ["legacy_of_test:resource", "legacy_of_test:make_site", "legacy_of_test:klein"]
    services = ["legacy_of_test:make_service", "legacy_of_test:make_application", "ok.tac", "plugin:web --path ."]

    for text in sites:
        loaded = load_legacy(text, None, base)
        assert isinstance(loaded.site, Site)
        assert loaded.service is None
    for text in services:
        loaded = load_legacy(text, None, base)
        assert loaded.site is None
        assert IService.providedBy(loaded.service)


@pytest_twisted.ensureDeferred
async def test_application_is_kept(base: Path) -> None:
    """
    An Application's other components (uid, log observer) stay reachable.
    """
    assert load_legacy("ok.tac", None, base).application is not None
    assert load_legacy("legacy_of_test:make_application", None, base).application is not None


@pytest_twisted.ensureDeferred
async def test_settings_reach_who_asks_for_them(base: Path) -> None:
    """
    A factory with a settings parameter gets them; others are called without.
    """
    loaded = load_legacy("legacy_of_test:make_service", {"a": 1}, base)
    without = load_legacy("legacy_of_test:make_service", None, base)

    assert {"a": 1} == loaded.service.settings  # type: ignore[union-attr]
    assert without.service.settings is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("legacy_of_test", "not module:name"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("broken_of_test:x", "imports 'nothing_of_that_name'"),
        ("crooked_of_test:x", "SyntaxError"),
        ("legacy_of_test:nothing", "has no 'nothing'"),
        ("legacy_of_test:number", "that is int 7"),
        ("legacy_of_test:wants_more", "without settings, database"),
        ("legacy_of_test:fails", "ValueError: no database"),
        ("gone.tac", "there is no file"),
        ("empty.tac", "has no services"),
        ("none.tac", "defines no `application`"),
        ("key.tac", "raised KeyError: 'application' at "),
        ("plugin:nonesuch", "no such plugin"),
        ("plugin:web --nonesuch", "nonesuch"),
        ("plugin:web 'x", "quotes"),
    ],
)
def test_legacy_mistakes_are_one_line(base: Path, text: str, says: str) -> None:
    """
    A user's mistake is a LoadError of one line that names what was given.
    """
    with pytest.raises(LoadError) as caught:
        load_legacy(text, None, base)

    assert says in str(caught.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modern_forms(base: Path) -> None:
    """
    Applications are taken as they are, factories are called.
    """
    plain = load_modern("modern_of_test:app", None, base)
    instance = load_modern("modern_of_test:instance", None, base)
    made: Any = load_modern("modern_of_test:create_app", {"b": 2}, base)
    asked: Any = load_modern("modern_of_test:needs_settings", None, base)
    classes: Any = load_modern("modern_of_test:App", None, base)

    assert plain is sys.modules["modern_of_test"].app
    assert instance is sys.modules["modern_of_test"].instance
    assert {"b": 2} == made.settings
    assert {} == asked.settings
    assert type(classes) is sys.modules["modern_of_test"].App


def test_fastapi_is_an_application_and_no_factory(base: Path) -> None:
    """
    A FastAPI instance is callable, and still not called for one.
    """
    (base / "fast_of_test.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")

    assert "FastAPI" == type(load_modern("fast_of_test:app", None, base)).__name__


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modern_of_test:text", "can't be called"),
        ("modern_of_test:returns_nothing", "the factory returned"),
        ("modern_of_test:two", "ASGI 2"),
    ],
)
def test_modern_mistakes_are_one_line(base: Path, text: str, says: str) -> None:
    """
    What can't be an ASGI application is refused with its kind.
    """
    with pytest.raises(LoadError) as caught:
        load_modern(text, None, base)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [("legacy_of_test:runs", "legacy_of_test.py:"), ("runs_of_test:x", "runs_of_test.py:2"), ("runs.tac", "runs.tac:")],
)
@pytest_twisted.ensureDeferred
async def test_who_runs_the_reactor_is_refused(base: Path, text: str, where: str) -> None:
    """
    An application that calls reactor.run() while it is loaded hears where, and what to do. It
    ran there for ever, with its ports bound and nobody to answer on them.
    """
    from twisted.internet import reactor

    running: Any = reactor
    with pytest.raises(LoadError) as caught, running.loading():
        load_legacy(text, None, base)

    assert "it called reactor.run()" in str(caught.value)
    assert where in str(caught.value)
    assert "__main__" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_reactor_of_its_own(base: Path) -> None:
    """
    Who installs another reactor hears which line to take out, and not one of Twisted's.
    """
    with pytest.raises(LoadError) as caught:
        load_legacy("legacy_of_test:installs", None, base)

    assert re.search(r"installed a reactor of its own at \S+legacy_of_test\.py:\d+\. Take that out", str(caught.value))
