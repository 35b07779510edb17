"""
What is shipped: a wheel, an sdist and an editable install each bring the twistd command and bgctl, and go without a
trace.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.house.conftest import SOURCES, Environment, clean_environment
from tests.house.rooms import ROOT, modules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What the code reads at run time, beside modules.
DATA = {".sql", ".toml", ".tac", ".html", ".css", ".js", ".svg", ".typed"}


# What comes with an extra: the modules that are written for it are loaded where it is asked for.
ENGINES = ("celery", "dramatiq", "psycopg", "redis", "rq")


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The folder with the wheel and the sdist, as `python -m build` makes them: the wheel from the sdist.
    """
    output = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(output), str(checkout)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return output


Installing = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def installing(bare: Environment) -> Installing:
    """
    Installs the project into the bare environment for as long as a block lasts.
    """

    @contextmanager
    def install(*what: str) -> Iterator[None]:
        bare.run("pip", "install", "--quiet", "--no-deps", *what)
        try:
            yield
        finally:
            bare.run("pip", "uninstall", "--quiet", "--yes", "bgserver")

    return install


def the_one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def shipped_files(checkout: Path) -> set[str]:
    """
    The modules and data of the four trees, by their place below site-packages.
    """
    wanted = set()
    for tree in (each for each in SOURCES if (checkout / each).is_dir()):
        for path in (checkout / tree).rglob("*"):
            place = path.relative_to(checkout).as_posix()
            if path.suffix in {*DATA, ".py"}:
                wanted.add(place.removeprefix("twistd_plugin/") if "twisted/plugins" in place else place)
    return wanted


def test_the_wheel_holds_every_module_and_all_data(built, checkout):
    """
    What the checkout runs with is what users get, migrations, policies and types too.
    """
    names = set(zipfile.ZipFile(the_one(built, "*.whl")).namelist())

    assert set() == shipped_files(checkout) - names


def test_the_wheel_holds_nothing_else(built, checkout):
    """
    No tests, no build folder, no stray package lands in anybody's site-packages.
    """
    names = {name for name in zipfile.ZipFile(the_one(built, "*.whl")).namelist() if ".dist-info/" not in name}

    assert set() == names - shipped_files(checkout)


def test_the_sdist_builds_without_the_repository(built, checkout):
    """
    The sdist has the licence, the metadata and every source: the wheel was made from it.
    """
    with tarfile.open(the_one(built, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= names
    assert {each.relative_to(checkout).as_posix() for each in (checkout / "bridge").rglob("*.py")} <= names


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_install_brings_the_command_and_takes_it_away(kind, built, bare, installing):
    """
    After `pip install`, twistd lists the command and the reactor, and bgctl is on the path; after `pip uninstall`, none
    of them is there.
    """
    with installing(str(the_one(built, kind))):
        assert "bgserver" in bare.plugins()
        assert "bgserver" in bare.run("twistd", "--help-reactors")
        assert "usage" in bare.run("bgctl", "--help").lower()

    assert "bgserver" not in bare.plugins()
    assert "bgserver" not in bare.run("twistd", "--help-reactors")
    assert not (bare.bin / "bgctl").exists()
    assert [] == [str(each) for each in bare.home.rglob("*bgserver*") if "__pycache__" not in each.parts]


def test_an_editable_install_brings_the_command_and_shows_edits(checkout, bare, installing):
    """
    `pip install -e .` lists bgserver too, and an edit shows at once.

    setuptools' lenient default is an import hook, which Twisted does not see: without `[editable_wheel] mode = strict`
    the first assertion fails.
    """
    source = checkout / "bridge" / "errors.py"
    before = source.read_text("utf-8")

    with installing("-e", str(checkout)):
        assert "bgserver" in bare.plugins()
        assert "usage" in bare.run("bgctl", "--help").lower()
        source.write_text(before + "\nEDITED = True\n", "utf-8")
        try:
            assert "True" == bare.run("python", "-c", "import bridge.errors; print(bridge.errors.EDITED)").strip()
        finally:
            source.write_text(before, "utf-8")

    assert "bgserver" not in bare.plugins()


def test_what_is_installed_has_its_types(installed):
    """
    `py.typed` is beside the packages that users import.
    """
    found = installed.run(
        "python",
        "-c",
        "import pathlib, bridge, modern_fastapi\n"
        "print([pathlib.Path(each.__file__).with_name('py.typed').exists() for each in (bridge, modern_fastapi)])",
    )

    assert "[True, True]" == found.strip()


def test_the_metadata_is_sound(installed):
    """
    What is installed agrees with itself.
    """
    assert "No broken requirements found." in installed.run("pip", "check")


@pytest.mark.parametrize("tree", ["legacy_twisted", "modern_fastapi"])
def test_the_applications_import_without_each_other_and_the_harness(tree, installed, checkout, tmp_path):
    """
    Each application works with the other's folder and bridge/ deleted.
    """
    (tmp_path / tree).symlink_to(checkout / tree)
    if tree == "legacy_twisted":
        # Legacy reads the migrations as data, wherever they lie.
        (tmp_path / "modern_fastapi").mkdir()
        (tmp_path / "modern_fastapi" / "migrations").symlink_to(checkout / "modern_fastapi" / "migrations")
    names = [
        each.name
        for each in modules(tree)
        if (checkout / each.path.relative_to(ROOT)).exists()
        and not each.name.endswith("__main__")
        and not any(found.within(*ENGINES) for found in each.imports())
    ]
    source = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in GONE: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        f"GONE = {{'bridge', 'legacy_twisted', 'modern_fastapi', 'twistd_plugin'}} - {{{tree!r}}}\n"
        + ("GONE |= {'fastapi', 'starlette', 'uvicorn'}\n" if tree == "legacy_twisted" else "GONE |= {'twisted'}\n")
        + f"for name in {names}: importlib.import_module(name)\nprint('stands')"
    )

    assert "stands" == installed.run("python", "-c", source).strip().splitlines()[-1]
