"""
The laws of the house, read from the source: who may import whom, what the top level holds, and that nothing happens
at import.
"""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rooms import ROOT, TREES, Import, Module, is_pure, modules

# What a pure room may not know, though the standard library has it: clocks, dice and loops arrive as arguments.
IMPURE_STDLIB = (
    "asyncio",
    "concurrent",
    "multiprocessing",
    "os",
    "queue",
    "random",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
)

# Reading these brings a reactor with it.
REACTOR_IMPORTERS = (
    "twisted.conch.manhole",
    "twisted.mail.smtp",
    "twisted.web.distrib",
    "twisted.web.proxy",
    "twisted.web.tap",
)


def broken(module: Module, found: list[Import], law: str) -> list[str]:
    return [f"{module.where(each.line)} imports {each.target}: {law}" for each in found]


def test_pure_rooms_know_the_standard_library_and_attrs_alone():
    """
    Routing, parity, config, errors and ownership can be tested with values: no I/O, no clock, no dice.
    """
    faults = []
    for module in (each for each in modules("bridge") if each.pure):
        for each in module.imports():
            top = each.target.partition(".")[0]
            allowed = (
                top in {"attr", "attrs", "__future__"}
                or (top in sys.stdlib_module_names and top not in IMPURE_STDLIB)
                or is_pure(each.target)
            )
            if not allowed:
                faults += broken(module, [each], "a pure room")

    assert [] == faults


def test_pure_rooms_drag_nothing_in_when_they_are_imported():
    """
    Importing the pure rooms loads neither stack: a package's `__init__` counts too.
    """
    pure = [each.name for each in modules("bridge") if each.pure]
    heavy = {"twisted", "fastapi", "starlette", "uvicorn", "sqlalchemy", "asyncio", "uvloop"}

    loaded = run_python(
        "import importlib, json, sys\n"
        f"for name in {pure}: importlib.import_module(name)\n"
        "print(json.dumps(list(sys.modules)))"
    )

    assert set() == heavy & set(json.loads(loaded))


def test_rooms_with_io_never_import_each_other():
    """
    The rooms meet in compose/. The shell for uvicorn and testing/ install the reactor and compose, cli/ reads state.
    The policy's file is read in one place for all of them, which knows nothing but its form.
    """
    free = {"bridge", "bridge.compose"}
    everybodys = "bridge.policy"
    allowed = {
        "bridge.asgi": {"bridge.compose", "bridge.loop"},
        "bridge.testing": {"bridge.compose", "bridge.loop"},
        "bridge.cli": {"bridge.state"},
    }
    rooms = {each.room for each in modules("bridge")} - {"bridge"}
    faults = []
    for module in modules("bridge"):
        if module.room in free:
            continue
        for each in module.imports():
            if not each.within("bridge") or is_pure(each.target):
                continue
            room = ".".join(each.target.split(".")[:2])
            mine = {module.room, everybodys, *allowed.get(module.room, ())}
            if room in rooms and room not in mine:
                faults += broken(module, [each], "rooms meet in compose")

    assert [] == faults


def test_only_the_shells_import_compose():
    """
    compose knows all rooms, so only the thin shells and the users' test doubles may know it.
    """
    shells = ("bridge.compose", "bridge.asgi", "bridge.testing")
    faults = []
    for module in modules("bridge", "legacy_twisted", "modern_fastapi"):
        if not Import(module.name, 0).within(*shells):
            faults += broken(module, [each for each in module.imports() if each.within("bridge.compose")], "a shell's")

    assert [] == faults


@pytest.mark.parametrize(
    ("tree", "strangers"),
    [
        ("legacy_twisted", ("bridge", "modern_fastapi", "twistd_plugin", "fastapi", "starlette", "uvicorn")),
        ("modern_fastapi", ("bridge", "legacy_twisted", "twistd_plugin", "twisted")),
        ("bridge", ("legacy_twisted", "modern_fastapi", "twistd_plugin")),
        ("twistd_plugin", ("legacy_twisted", "modern_fastapi")),
    ],
)
def test_each_tree_stands_without_the_others(tree, strangers):
    """
    The applications share no code with the harness or with each other, and can be deleted in their turn.
    """
    faults = []
    for module in modules(tree):
        faults += broken(module, [each for each in module.imports() if each.within(*strangers)], f"{tree} stands alone")

    assert [] == faults


def test_fastapi_has_two_homes():
    """
    FastAPI is imported in modern_fastapi/ and bridge/admin/ only.
    """
    faults = []
    for module in modules():
        if not Import(module.name, 0).within("modern_fastapi", "bridge.admin"):
            fastapi = [each for each in module.imports() if each.within("fastapi")]
            faults += broken(module, fastapi, "not FastAPI's home")

    assert [] == faults


def test_a_server_loads_fastapi_only_where_it_is_served():
    """
    Composing a server knows no FastAPI: legacy alone, with the admin API off, starts without it.
    """
    loaded = json.loads(run_python("import bridge.compose, json, sys\nprint(json.dumps(list(sys.modules)))"))

    assert set() == {"fastapi", "starlette", "pydantic"} & set(loaded)


def test_the_reactor_arrives_as_an_argument():
    """
    twisted.internet.reactor is imported in bridge/loop/ and twistd_plugin/ only: elsewhere the import would install
    Twisted's own choice.
    """
    faults = []
    for module in modules("bridge"):
        if module.room != "bridge.loop":
            reactor = [each for each in module.imports() if each.within("twisted.internet.reactor", *REACTOR_IMPORTERS)]
            faults += broken(module, reactor, "the reactor is an argument")

    assert [] == faults


def test_the_dropins_bring_no_reactor():
    """
    Twisted reads every dropin to list its plugins, before a reactor is chosen: they import Twisted's own words alone.
    """
    dropins = sorted((ROOT / "twistd_plugin/twisted/plugins").glob("*.py"))

    targets = {each.target for dropin in dropins for each in Module(dropin.stem, dropin).imports()}

    assert {"twisted.application.service.ServiceMaker", "twisted.application.reactors.Reactor"} == targets


def test_every_dropin_is_packaged():
    """
    A dropin that setup.cfg does not name is there in the checkout and gone after an install.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    named = setup["options"]["py_modules"].split()

    dropins = (ROOT / "twistd_plugin/twisted/plugins").glob("*.py")
    assert sorted(f"twisted.plugins.{each.stem}" for each in dropins) == named


def test_the_top_level_has_seven_names():
    """
    A stranger sees the whole house at one glance.
    """
    house = {"setup.cfg", "README.md", "legacy_twisted", "modern_fastapi", "bridge", "twistd_plugin", "tests"}
    beside = {"pyproject.toml", "LICENSE", "CHANGELOG.md", "docs"}

    strangers = {top_level(path) for path in kept_files()} - house - beside

    assert set() == {name for name in strangers if not name.startswith(".")}


def test_modules_and_classes_are_named_by_what_they_are():
    """
    No `utils`, `helpers`, `common`, `misc`; no `*Manager`, no `*Handler`.
    """
    faults = []
    for module in modules():
        if re.fullmatch(r"(.*_)?(utils?|helpers?|common|misc|managers?|handlers?)", module.name.rpartition(".")[2]):
            faults.append(module.where(1))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and re.search(r"(Manager|Handler|Helper|Util)s?$", node.name):
                faults.append(f"{module.where(node.lineno)} class {node.name}")

    assert [] == faults


def test_each_module_opens_with_what_it_owns():
    """
    Every module, and every package's map, has a docstring.
    """
    assert [] == [each.where(1) for each in modules() if ast.get_docstring(each.tree) is None]


def test_each_test_says_its_promise():
    """
    A test's docstring is the promise that it keeps.
    """
    faults = []
    for module in (each for each in modules("tests") if each.path.name.startswith("test_")):
        for node in ast.walk(module.tree):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and ast.get_docstring(node) is None:
                faults.append(f"{module.where(node.lineno)} {node.name}")

    assert [] == faults


def test_nothing_is_left_for_later():
    """
    No stubs, and no notes to ourselves.
    """
    later = re.compile(r"\b(TODO|FIXME|XXX|NotImplemented" + r"Error)\b")
    faults = []
    for module in modules():
        for number, line in enumerate(module.path.read_text("utf-8").splitlines(), 1):
            if later.search(line):
                faults.append(f"{module.where(number)} {line.strip()}")

    assert [] == faults


def test_the_harness_uses_attrs():
    """
    Facts and actors are attrs classes; two ways of saying the same would be one too many.
    """
    faults = []
    for module in modules("bridge"):
        faults += broken(module, [each for each in module.imports() if each.within("dataclasses")], "attrs")

    assert [] == faults


def test_every_import_is_a_declared_dependency():
    """
    What the code imports is what setup.cfg asks for: a package that comes with another one today may not tomorrow.
    """
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = setup["options"]["install_requires"].splitlines()
    for requirements in (extras[name] for name in extras if name != "tests"):
        wanted += requirements.splitlines()
    declared = names_of(wanted)
    declared_for_tests = declared | names_of(extras["tests"].splitlines())
    # pydantic pins its core to the patch level, and documents its names as its own.
    providers = {**importlib.metadata.packages_distributions(), "pydantic_core": ["pydantic"]}
    faults = []
    for module in modules(*TREES, "tests"):
        known = declared_for_tests if module.room == "tests" else declared
        for each in module.imports():
            top = each.target.partition(".")[0]
            if top in sys.stdlib_module_names or top in {*TREES, "tests"}:
                continue
            if not {canonical(name) for name in providers.get(top, [top])} & known:
                faults += broken(module, [each], "not in setup.cfg")

    assert [] == faults


PROBE = """
import importlib, json, os, signal, sys, threading, warnings
warnings.simplefilter("ignore")
before = (dict(os.environ), {s: signal.getsignal(s) for s in signal.valid_signals()}, set(os.listdir("/proc/self/fd")))
for name in %r:
    importlib.import_module(name)
after = (dict(os.environ), {s: signal.getsignal(s) for s in signal.valid_signals()}, set(os.listdir("/proc/self/fd")))
print(json.dumps({
    "reactor": "twisted.internet.reactor" in sys.modules,
    "threads": [each.name for each in threading.enumerate()],
    "environment": before[0] == after[0],
    "signals": before[1] == after[1],
    "descriptors": len(after[2]) - len(before[2]),
    "folder": os.listdir("."),
}))
"""


@pytest.mark.parametrize("tree", TREES)
def test_nothing_happens_at_import(tree, tmp_path):
    """
    Importing every module of a tree installs no reactor, starts no thread, opens nothing and writes nothing.
    """
    names = [each.name for each in modules(tree) if "twisted.plugins" not in each.name and not runs(each)]

    seen = json.loads(run_python(PROBE % (names,), cwd=tmp_path))

    assert {
        "reactor": False,
        "threads": ["MainThread"],
        "environment": True,
        "signals": True,
        "descriptors": 0,
        "folder": [],
    } == seen


@pytest.mark.parametrize("module", ["twistd_plugin", *sorted({each.room for each in modules("bridge")})])
def test_importing_a_room_alone_installs_no_reactor(module):
    """
    The reactor is chosen by install(), once `--loop` is known.
    """
    assert "False" == run_python(f"import sys, {module}\nprint('twisted.internet.reactor' in sys.modules)")


def test_the_facade_keeps_its_word():
    """
    Every public name of `bridge` is there, and is found where the facade says.
    """
    import bridge

    found = {name: getattr(bridge, name) for name in bridge.__all__}

    assert sorted(bridge._HOMES) == sorted(found)
    assert set(bridge.__all__) <= set(dir(bridge))


def test_the_facade_has_no_other_names():
    """
    A misspelt name is an AttributeError that names it, as with any module.
    """
    import bridge

    with pytest.raises(AttributeError, match="no attribute 'instal'"):
        bridge.instal


def names_of(requirements: list[str]) -> set[str]:
    """
    The distributions that these requirements ask for.
    """
    return {canonical(re.split(r"[\[<>=;~ ]", each, maxsplit=1)[0]) for each in requirements if each}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def runs(module: Module) -> bool:
    """
    A `__main__` is there to run, not to be imported.
    """
    return module.name.endswith("__main__")


def kept_files() -> list[str]:
    """
    What the project keeps: git's list, or, where there is no repository, what lies here and is not ignored.
    """
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return listed.stdout.splitlines()
    ignored = {"build", "dist", "data", "bgserver.db", "bgserver.toml"}
    return [each.name for each in ROOT.iterdir() if each.name not in ignored and each.suffix != ".egg-info"]


def top_level(path: str) -> str:
    return Path(path).parts[0]


def run_python(source: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{source}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
