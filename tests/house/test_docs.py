"""
The documentation holds what the code has: every option, setting, key, stage and command, and no other.
"""

from __future__ import annotations

import re
import tomllib

import attrs
import pytest

from bridge import config
from bridge.background.ownership import LoopStage
from bridge.dispatch.sandbox import copies_of
from bridge.routing import Effects, Stage
from tests.house import readme, render
from tests.house.rooms import ROOT, modules


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def documented_keys() -> dict[str, str]:
    """
    The rows of the policy's tables: key to default, as they are written.
    """
    return dict(re.findall(r"^\| `([a-z0-9_.]+)` \| ([^|]+) \| .+ \|$", page("policy.md"), re.MULTILINE))


@pytest.mark.parametrize("place", render.PAGES, ids=lambda each: each.name)
def test_generated_parts_are_up_to_date(place):
    """
    `python -m tests.house.render` would change nothing.
    """
    text = place.read_text("utf-8")

    assert render.rendered(text) == text


def test_every_generated_part_is_shown():
    """
    What can be generated has a place, and every place has a generator.
    """
    shown = [name for place in render.PAGES for name in render.parts_of(place.read_text("utf-8"))]

    assert set(render.PARTS) == set(shown)


def test_every_key_of_the_policy_is_documented():
    """
    Each key that the parser reads has a row; `[routes]` names its keys in a sentence.
    """
    named = set(re.findall(r"`(routes\.[a-z]+)`", page("policy.md")))

    assert render.policy_keys() == set(documented_keys()) | named


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ("gate.", config.GateConfig),
        ("gate.rollback.", config.RollbackConfig),
        ("loop.", config.LoopConfig),
        ("route.", config.RouteConfig),
        ("", config.Config),
    ],
)
def test_documented_defaults_are_the_codes(table, facts):
    """
    A default that a row shows as a value is the one that the parser would take.
    """
    rows = documented_keys()
    for field in attrs.fields(facts):
        shown = rows.get(table + field.name, "none")
        if shown.startswith("`") and isinstance(field.default, bool | int | float | str):
            assert {"value": field.default} == tomllib.loads(f"value = {shown.strip('` ')}"), field.name


def test_every_stage_is_documented():
    """
    Each stage of a route and of a loop is in the reference of the policy.
    """
    text = page("policy.md")

    missing = [stage.value for stage in [*Stage, *LoopStage] if stage.value not in text]

    assert [] == missing


def test_every_word_that_a_key_takes_is_documented():
    """
    The values of the keys that take one of a few words.
    """
    text = page("policy.md") + page("commands.md")
    effects = [each.value for each in Effects]
    words = [*config.FRONTS, *config.LOOPS, *config.PROMOTES, *config.ENDPOINTS, *effects]

    assert [] == [word for word in words if word not in text]


def test_both_stacks_have_the_same_settings():
    """
    One table describes both: a name that one of them refuses would stop the other's server.
    """
    from legacy_twisted.settings import Settings as LegacySettings
    from modern_fastapi.settings import Settings as ModernSettings

    assert sorted(ModernSettings.model_fields) == sorted(each.name for each in attrs.fields(LegacySettings))


def test_every_variable_of_the_environment_is_documented():
    """
    What the code reads from the environment is in a table.
    """
    read = set()
    for tree in ("bridge", "twistd_plugin"):
        for path in (ROOT / tree).rglob("*.py"):
            read |= set(re.findall(r"\bBGSERVER_[A-Z_]+\b", path.read_text("utf-8")))

    assert read == set(re.findall(r"^\| `(BGSERVER_[A-Z_]+)` \|", page("commands.md"), re.MULTILINE))


def test_links_between_the_pages_lead_somewhere():
    """
    A relative link names a file, or a heading, that is there.
    """
    broken = []
    for place in render.PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", place.read_text("utf-8")):
            if not target.startswith(("http://", "https://")) and not (place.parent / target).exists():
                broken.append(f"{place.name}: {target}")

    assert [] == broken


def test_files_that_the_pages_name_are_there():
    """
    A path in code font below one of the project's folders exists.
    """
    name = re.compile(r"`((?:bridge|docs|legacy_twisted|modern_fastapi|tests|twistd_plugin)/[\w./-]*)(?:::\w+)?`")
    missing = []
    for place in render.PAGES:
        for path in name.findall(place.read_text("utf-8")):
            if not (ROOT / path).exists():
                missing.append(f"{place.name}: {path}")

    assert [] == missing


def test_each_way_of_the_sources_names_its_test():
    """
    Each row of docs/sources.md ends with one test, by its file and name, that is there.
    """
    rows = [line.split(" | ") for line in page("sources.md").splitlines() if line.startswith("| ")]
    ways = [row for row in rows if row[0] not in ("| way", "| ---")]
    faults = []
    for way in ways:
        named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)` \|", way[-1])
        path = ROOT / named[1] if named else ROOT / "none"
        if named is None or not path.exists() or not re.search(rf"^(async )?def {named[2]}\(", path.read_text(), re.M):
            faults.append(way[0])

    assert len(ways) > 40
    assert [] == faults


def test_pages_that_the_code_names_are_there():
    """
    An error or a docstring that sends a person to a page sends them to one that exists.
    """
    missing = set()
    for module in modules():
        for name in re.findall(r"\bdocs/[\w-]+\.md\b", module.path.read_text("utf-8")):
            if not (ROOT / name).exists():
                missing.add(f"{module.name}: {name}")

    assert set() == missing


def test_toml_on_the_pages_is_a_policy():
    """
    An example policy that a reader copies is one that the parser takes, copies of stores included.
    """
    for place in render.PAGES:
        for text in re.findall(r"```toml\n(.*?)```", place.read_text("utf-8"), re.DOTALL):
            policy = config.parse_config(text, place.name, ROOT)
            for app in (policy.legacy, policy.modern):
                if app is not None:
                    copies_of(app.sandbox, ROOT, place.name)


def test_the_changelog_keeps_its_form():
    """
    Keep a Changelog: an Unreleased section, and only its kinds of change.
    """
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_the_build_runs_readmes_own_test_command():
    """
    What a reader types to pass the tests is what the build types.
    """
    script = (ROOT / ".ci" / "run").read_text("utf-8")

    assert "tests" in readme.commands()
    assert "tests/house/readme.py tests" in script
