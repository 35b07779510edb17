"""
What a user gets: the project built and installed into an environment of its own, once for all tests that look at it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.house.readme import commands
from tests.house.rooms import ROOT

SOURCES = (
    "bridge",
    "legacy_twisted",
    "modern_fastapi",
    "twistd_plugin",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
)


@attrs.frozen
class Environment:
    """
    A fresh virtual environment, and a folder to stand in that has no checkout in it.
    """

    home: Path
    folder: Path

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """
        What the program printed; a failure shows all of it.
        """
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd or self.folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{program} {' '.join(arguments)}:\n{done.stdout}"
        return done.stdout

    def plugins(self) -> set[str]:
        """
        The commands that `twistd --help` lists.
        """
        listed = self.run("twistd", "--help").partition("Commands:")[2]
        return {line.split()[0] for line in listed.splitlines() if line.strip()}


def clean_environment() -> dict[str, str]:
    """
    The environment without what would let the checkout in.
    """
    hidden = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "COVERAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A copy of what is packaged, so that building leaves nothing in the real one.
    """
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="session")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """
    What README's run command installs, word for word, before it starts the server; it is left as it is.
    """
    *installing, _ = commands()["run"].split(" && ")
    place = tmp_path_factory.mktemp("path")
    (place / "python3").symlink_to(sys.executable)
    variables = clean_environment()
    variables["PATH"] = f"{place}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", " && ".join(installing)],
        cwd=checkout,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return Environment(checkout / ".venv", tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="session")
def bare(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """
    An environment that has what the project needs, and not the project.
    """
    home = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, env=clean_environment())
    environment = Environment(home, tmp_path_factory.mktemp("elsewhere"))
    environment.run("pip", "install", "--quiet", str(checkout))
    environment.run("pip", "uninstall", "--quiet", "--yes", "bgserver")
    return environment
