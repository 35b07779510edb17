"""
Which policy applies, and what a running server takes over of a changed one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.config import EVERYTHING, Config
from bridge.errors import ConfigError, NotBuiltError
from bridge.policy import find_policy, needs_restart, read_policy, reload
from bridge.routing import Stage

HERE = 'site = "tcp:1"\n'


def found(
    cwd: Path,
    config: str | None = None,
    legacy: str | None = None,
    modern: str | None = None,
    example: Path | None = None,
    **environ: str,
) -> Config:
    return find_policy(config=config, legacy=legacy, modern=modern, cwd=cwd, example=example, environ=environ)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """
    A shipped example, in a folder of its own.
    """
    path = tmp_path / "shipped" / "example.toml"
    path.parent.mkdir()
    path.write_text('site = "tcp:2"\n')
    return path


def test_the_named_policy_comes_first_and_its_folder_is_the_base(tmp_path: Path, example: Path) -> None:
    """
    Relative paths in it start where it lies, wherever the command is run.
    """
    (tmp_path / "bgserver.toml").write_text(HERE)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.toml").write_text('site = "tcp:3"\n')

    config = found(tmp_path, config="other/mine.toml", legacy="a:b", example=example)

    assert (config.site, config.base, config.source) == ("tcp:3", other, "other/mine.toml")
    assert config.state == f"sqlite:///{other}/bgserver.db"


def test_else_the_one_of_this_folder(tmp_path: Path, example: Path) -> None:
    """
    ./bgserver.toml, before the shipped example.
    """
    (tmp_path / "bgserver.toml").write_text(HERE)

    assert found(tmp_path, example=example).site == "tcp:1"


@pytest.mark.parametrize("option", ["legacy", "modern"])
def test_an_application_by_option_is_a_policy_of_its_own(tmp_path: Path, example: Path, option: str) -> None:
    """
    Neither the file of this folder nor the example has a say then.
    """
    (tmp_path / "bgserver.toml").write_text(HERE)

    config = found(tmp_path, example=example, **{option: "a:b"})  # type: ignore[arg-type]

    assert (config.site, config.routes, config.base) == (None, (), tmp_path)


def test_else_the_shipped_example_with_this_folder_as_its_base(tmp_path: Path, example: Path) -> None:
    """
    Its data lies here, not where it was installed.
    """
    config = found(tmp_path, example=example)

    assert (config.site, config.base, config.source) == ("tcp:2", tmp_path, "example.toml")


def test_else_none(tmp_path: Path) -> None:
    """
    No routes, no loops, everything legacy.
    """
    config = found(tmp_path)

    assert (config.routes, config.loops, config.source) == ((), (), "options")


@pytest.mark.parametrize(("value", "forced"), [("1", True), ("true", True), ("0", False), ("", False), (" NO ", False)])
def test_the_environment_has_the_switch_for_the_worst_night(tmp_path: Path, value: str, forced: bool) -> None:
    """
    Whatever the file says.
    """
    assert found(tmp_path, BGSERVER_FORCE_LEGACY=value).force_legacy is forced


def test_the_switch_in_the_environment_never_switches_off(tmp_path: Path) -> None:
    """
    The file's own stays.
    """
    (tmp_path / "bgserver.toml").write_text("force_legacy = true")

    assert found(tmp_path, BGSERVER_FORCE_LEGACY="0").force_legacy is True


def test_a_switch_that_says_neither_is_refused(tmp_path: Path) -> None:
    """
    In the worst night a typo must not pass for off.
    """
    with pytest.raises(ConfigError, match="BGSERVER_FORCE_LEGACY"):
        found(tmp_path, BGSERVER_FORCE_LEGACY="ye")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x ="])
def test_a_policy_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    """
    Missing, not UTF-8, or no TOML: never passed over for another.
    """
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)

    with pytest.raises(ConfigError, match=r"mine\.toml"):
        found(tmp_path, config="mine.toml")


OLD = """
grace = 1
listen = ["tcp:8000"]
[legacy]
app = "a:b"
[modern]
app = "c:d"
[[route]]
match = "GET /x"
"""
NEW = """
grace = 2
force_legacy = true
listen = ["tcp:9000"]
[legacy]
app = "other:b"
[modern]
app = "c:d"
[gate]
aa = 7
[routes]
sample = 0.5
[[route]]
match = "GET /y"
stage = "modern"
"""


def running(tmp_path: Path) -> Config:
    path = tmp_path / "bgserver.toml"
    path.write_text(OLD)
    return read_policy(path, tmp_path, "bgserver.toml")


def test_a_reload_takes_routes_and_figures_and_leaves_what_is_bound(tmp_path: Path) -> None:
    """
    Addresses and applications want a restart; everything that is read for each request doesn't.
    """
    config = reload(running(tmp_path), NEW)

    assert [route.name for route in config.routes] == ["GET /y"]
    assert (config.gate.aa, config.grace, config.force_legacy, config.default_route.sample) == (7, 2.0, True, 0.5)
    assert config.listen == ("tcp:8000",)
    assert config.legacy is not None
    assert config.legacy.app == "a:b"
    assert config.table({"GET /y": (Stage.LIVE, 0.0)}).route("GET /y").stage is Stage.LIVE


def test_what_wants_a_restart_is_named(tmp_path: Path) -> None:
    """
    So that nobody waits for it.
    """
    old = running(tmp_path)

    assert needs_restart(old, OLD) == ()
    assert needs_restart(old, NEW) == ("listen", "legacy")


def test_a_reload_leaves_what_options_and_environment_say(tmp_path: Path) -> None:
    """
    The switch for the worst night survives a SIGHUP: seen to fail when the file's own word was taken.
    """
    (tmp_path / "bgserver.toml").write_text(OLD)
    old = found(tmp_path, BGSERVER_FORCE_LEGACY="1").merged(base=tmp_path, listen=["tcp:1"], legacy="mine:app")

    config = reload(old, NEW.replace("force_legacy = true", ""))

    assert config.force_legacy is True
    assert config.listen == ("tcp:1",)
    assert needs_restart(old, NEW) == ()


def test_a_reload_cannot_bring_the_first_modern_application(tmp_path: Path) -> None:
    """
    Routes that would have nobody to go to are refused, and the old policy stays.
    """
    path = tmp_path / "bgserver.toml"
    path.write_text(OLD.replace('[modern]\napp = "c:d"\n', ""))
    old = read_policy(path, tmp_path, "bgserver.toml")

    with pytest.raises(ConfigError, match="restart"):
        reload(old, NEW)


def test_of_a_broken_file_nothing_counts(tmp_path: Path) -> None:
    """
    The old policy stays, and the error names the key.
    """
    with pytest.raises(ConfigError, match=r"bgserver\.toml: route\[0\]\.match"):
        reload(running(tmp_path), "grace = 9\n[[route]]\n")


def test_what_is_not_built_is_refused_at_a_reload_too(tmp_path: Path) -> None:
    """
    The same check as at the start.
    """
    with pytest.raises(NotBuiltError):
        reload(running(tmp_path), NEW, EVERYTHING - {"stage:modern"})


def test_the_folder_may_be_left_to_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A relative current folder still gives absolute paths.
    """
    monkeypatch.chdir(tmp_path)
    Path("bgserver.toml").write_text("")

    config = read_policy(Path("bgserver.toml"), Path(), "bgserver.toml")

    assert config.state == f"sqlite:///{os.getcwd()}/bgserver.db"
