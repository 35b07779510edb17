"""
The house as its laws see it: which modules there are, which rooms are pure, and what each module imports.

Refuses to import what it describes: everything is read from the source, function-level imports too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
TREES = ("bridge", "legacy_twisted", "modern_fastapi", "twistd_plugin")

# Modules, or packages with all that is below them.
PURE = (
    "bridge.beat",
    "bridge.errors",
    "bridge.config",
    "bridge.routing",
    "bridge.parity",
    "bridge.background.ownership",
    "bridge.background.pairing",
)


@attrs.frozen
class Import:
    """
    One import, by the full name of what it brings: C{twisted.internet.reactor} for C{from twisted.internet import
    reactor}.
    """

    target: str
    line: int

    def within(self, *packages: str) -> bool:
        return any(self.target == package or self.target.startswith(package + ".") for package in packages)


@attrs.frozen
class Module:
    """
    One source file of the project.
    """

    name: str
    path: Path

    @property
    def pure(self) -> bool:
        return is_pure(self.name)

    @property
    def room(self) -> str:
        """
        The folder, or the single module, of bridge/ that this is in; the tree's name elsewhere.
        """
        parts = self.name.split(".")
        return ".".join(parts[:2]) if parts[0] == "bridge" else parts[0]

    @property
    def tree(self) -> ast.Module:
        return parsed(self.path)

    def imports(self) -> Iterator[Import]:
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            match node:
                case ast.Import():
                    for alias in node.names:
                        yield Import(alias.name, node.lineno)
                case ast.ImportFrom():
                    base = node.module or ""
                    if node.level:
                        parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                        base = ".".join([*parent, base] if base else parent)
                    for alias in node.names:
                        yield Import(f"{base}.{alias.name}", node.lineno)
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(target)), *_],
                ):
                    yield Import(target, node.lineno)

    def where(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def is_pure(name: str) -> bool:
    return Import(name, 0).within(*PURE)


def modules(*trees: str) -> list[Module]:
    """
    Every module of these trees (all of the project's, if none is named), in a stable order.
    """
    found = []
    for tree in trees or TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found.append(Module(".".join(parts), path))
    return found


def pure_tests() -> list[str]:
    """
    Where the tests of the pure rooms are: tests/ mirrors bridge/.
    """
    places = []
    for name in PURE:
        parent, _, last = name.removeprefix("bridge.").rpartition(".")
        folder = ROOT / "tests" / parent
        for place in (folder / last, folder / f"test_{last}.py"):
            if place.exists():
                places.append(str(place.relative_to(ROOT)))
    return places


def pure_files() -> list[str]:
    return [str(module.path.relative_to(ROOT)) for module in modules("bridge") if module.pure]


if __name__ == "__main__":
    if sys.argv[1] == "tests":
        print(*pure_tests())
    else:
        print(",".join(pure_files()))
