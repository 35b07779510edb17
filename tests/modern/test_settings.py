"""
Settings: what is wrong is refused at start, in one line that says what to change.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modern_fastapi.app import create_app
from modern_fastapi.settings import RefusedToStart, Settings, load_settings


def test_unknown_name_is_refused() -> None:
    """
    A setting that does not exist is named, and those that do are listed.
    """
    with pytest.raises(RefusedToStart, match=r"pol is not a setting \(its value is 1\): .* one of .*poll"):
        load_settings({"pol": 1})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("workers", "many", "valid integer"),
        ("workers", 0, "greater than or equal to 1"),
        ("loops", "consumer,kitchen", "there is no loop 'kitchen'"),
        ("engine", "steam", "'table'"),
        ("database", "mysql://x", "sqlite:///PATH or postgresql://"),
        ("smtp_sender", "a@b\nBcc: c@d", "one e-mail address"),
    ],
)
def test_wrong_value_is_refused(name: str, value: object, remedy: str) -> None:
    """
    The line names the setting, its value and the remedy.
    """
    with pytest.raises(RefusedToStart) as refused:
        load_settings({name: value})

    assert str(refused.value).startswith(f"{name} is {value!r}, ")
    assert remedy in str(refused.value)


def test_secret_is_not_shown() -> None:
    """
    A password never reaches the terminal, however wrong it is.
    """
    with pytest.raises(RefusedToStart) as refused:
        load_settings({"smtp_password": ["hunter2"]})

    assert "hunter2" not in str(refused.value)


def test_environment_is_named_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Who set JOBS_POLL reads JOBS_POLL.
    """
    monkeypatch.setenv("JOBS_POLL", "never")

    with pytest.raises(RefusedToStart, match="JOBS_POLL is 'never'"):
        load_settings()


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    JOBS_FILE names a TOML file; what the environment says as well counts more.
    """
    file = tmp_path / "jobs.toml"
    file.write_text("workers = 3\npoll = 0.5\n")
    monkeypatch.setenv("JOBS_FILE", str(file))
    monkeypatch.setenv("JOBS_WORKERS", "4")

    settings = load_settings()

    assert (4, 0.5) == (settings.workers, settings.poll)


def test_given_settings_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A second instance in the same process is not set up by what the first one's operator exported.
    """
    monkeypatch.setenv("JOBS_WORKERS", "4")

    assert 10 == load_settings({}).workers


def test_missing_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    A file that is named and not there is no reason to go on with the defaults.
    """
    monkeypatch.setenv("JOBS_FILE", str(tmp_path / "none.toml"))

    with pytest.raises(RefusedToStart, match="cannot be read"):
        load_settings()


def test_refusal_ends_a_program_with_one_line() -> None:
    """
    A server that calls the factory ends with the line and status 1, as SystemExit does; a program that embeds the
    application catches a ValueError.
    """
    with pytest.raises(SystemExit) as ended:
        create_app({"workers": 0})

    assert isinstance(ended.value, ValueError)
    assert str(ended.value) == ended.value.code


def test_every_setting_says_what_it_is() -> None:
    """
    The reference is generated from these descriptions.
    """
    assert [] == [name for name, field in Settings.model_fields.items() if not field.description]
