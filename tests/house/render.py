"""
The parts of the documentation that the code knows better: tables of settings, keys and options, diagrams of states.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. `python -m tests.house.render` writes all of them
again; a test refuses one that differs from the code.

Refuses to hold meanings twice: what a setting is for stands where the setting is.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path

import bridge.config.tables
from bridge.background.ownership import MOVES
from bridge.config import parse_config
from bridge.errors import RefusedChangeError
from bridge.loop.life import Starting, Stopping
from bridge.routing import Stage
from bridge.routing.moves import check_move
from tests.house.rooms import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_PART = re.compile(r"(?P<head><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)

# One of each table of a policy, so that a reading of it visits every key.
_EVERY_TABLE = """
[legacy]
app = "a:b"
[modern]
app = "c:d"
[gate]
[gate.rollback]
[routes]
[[route]]
match = "GET /"
canary = {}
[[loop]]
name = "consumer"
legacy = "service:consumer"
"""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings() -> str:
    """
    The example's settings, from the modern application's model; a test holds legacy's names to the same.
    """
    from modern_fastapi.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        rows.append([f"`JOBS_{name.upper()}`", f"`{default}`" if default else "empty", field.description or ""])
    return table(["setting", "default", "what it is"], rows)


def policy_keys() -> set[str]:
    """
    Every key path of bgserver.toml that the parser reads, written without indices: `route.canary.weight`.
    """
    seen = set()
    read = bridge.config.tables.Table.take

    def recording(self: bridge.config.tables.Table, name: str, *rest: object) -> object:
        if not self.prefix:
            seen.add(re.sub(r"\[\d+\]", "", self.key(name)))
        return read(self, name, *rest)  # type: ignore[arg-type]

    bridge.config.tables.Table.take = recording  # type: ignore[assignment, method-assign]
    try:
        parse_config(_EVERY_TABLE, "every table", Path("/"))
    finally:
        bridge.config.tables.Table.take = read  # type: ignore[method-assign]
    return seen


def options() -> str:
    """
    The options of `twistd bgserver`.
    """
    from twistd_plugin.options import Options

    rows = []
    for long, short, _default, meaning, *_ in Options.optParameters:
        rows.append([f"`--{long} {long.upper()}`" + (f", `-{short}`" if short else ""), meaning])
    shorts = {getattr(Options, name): f", `-{name[4:]}`" for name in dir(Options) if re.fullmatch("opt_[a-z]", name)}
    for name in dir(Options):
        if name.startswith("opt_") and len(name) > 5 and name != "opt_help":
            method = getattr(Options, name)
            long = name.removeprefix("opt_")
            wants = f" {long.upper()}" if method.__code__.co_argcount > 1 else ""
            rows.append([f"`--{long}{wants}`" + shorts.get(method, ""), " ".join((method.__doc__ or "").split())])
    return table(["option", "meaning"], sorted(rows))


def bgctl() -> str:
    """
    The commands of bgctl, what each takes, and what its exit status says.
    """
    from bridge.cli.arguments import EXIT, LATER, parser

    made = parser()
    (commands,) = (each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    shared = {each.dest for each in made._actions}
    meanings = {each.dest: each.help or "" for each in commands._choices_actions}
    rows = []
    for name, command in commands.choices.items():
        if name not in LATER:
            takes = [_shown(each) for each in command._actions if each.dest not in shared]
            rows.append(["`" + " ".join([name, *takes]) + "`", meanings[name]])
    everywhere = [
        [f"`{' '.join(each.option_strings)}{f' {each.metavar}' if each.metavar else ''}`", each.help or ""]
        for each in made._actions
        if each.option_strings and each.dest != "help"
    ]
    statuses = re.findall(r"^ +(\d+) +(.+)$", EXIT, re.MULTILINE)
    return "\n".join(
        [
            table(["command", "does"], rows),
            table(["with every command", "meaning"], everywhere),
            table(["exit status", "meaning"], statuses),
            f"Known, and refused by name in this version: {', '.join(f'`{name}`' for name in LATER)}.\n",
        ]
    )


def _shown(argument: argparse.Action) -> str:
    """
    One argument as usage shows it.
    """
    if not argument.option_strings:
        name = str(argument.metavar or "|".join(argument.choices or [argument.dest]))
        return f"[{name}]" if argument.nargs == "?" else name
    return f"[{argument.option_strings[0]}{f' {argument.metavar}' if argument.metavar else ''}]"


def route_stages() -> str:
    """
    The moves of a route: what a person may do without evidence, one step forward with it, and back.
    """
    stages = list(Stage)
    lines = [f"    [*] --> {stages[0].value}"]
    for old in stages:
        for new in stages:
            if old is not new and (label := _how(old, new)):
                lines.append(f"    {old.value} --> {new.value}: {label}")
    return mermaid("stateDiagram-v2", lines)


def _how(old: Stage, new: Stage) -> str:
    """
    How a person gets from one stage to another, as the rules answer; empty where a step is left out.
    """

    def allowed(passing: bool) -> bool:
        try:
            check_move("a route", (old, 0.0), (new, 5.0), passing=passing, reading="")
        except RefusedChangeError:
            return False
        return True

    if allowed(passing=False):
        # Every earlier stage can be gone back to; the diagram shows the one that `rollback` takes.
        return "back" if new is Stage.LEGACY else "free" if new.step > old.step else ""
    if not allowed(passing=True):
        return ""
    # Where nothing is compared any more, the gate never says that evidence passes.
    return "force" if old.step >= Stage.MODERN.step else "evidence"


def loop_stages() -> str:
    """
    The moves of a background loop, from the table that decides about them.
    """
    lines = [f"    [*] --> {next(iter(MOVES)).value}"]
    for old, new in MOVES.items():
        lines += [f"    {old.value} --> {stage.value}" for stage in type(old) if stage in new]
    return mermaid("stateDiagram-v2", lines)


def phases(words: type[Enum]) -> str:
    return " → ".join(phase.value for phase in words) + "\n"


def stages_built() -> str:
    """
    Which stages this version has; the others are known, and refused by name.
    """
    from bridge.compose import BUILT

    rows = []
    for stage in Stage:
        there = f"stage:{stage.value}" in BUILT
        rows.append([f"`{stage.value}`", "yes" if there else "not in this version: refused by name"])
    return table(["stage of a route", "here"], rows)


def mermaid(kind: str, lines: Iterable[str]) -> str:
    return "```mermaid\n" + "\n".join([kind, *lines]) + "\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "options": options,
    "bgctl": bgctl,
    "route-stages": route_stages,
    "loop-stages": loop_stages,
    "starting": lambda: phases(Starting),
    "stopping": lambda: phases(Stopping),
    "stages-built": stages_built,
}


def rendered(text: str) -> str:
    """
    A page with its generated parts as the code has them now.
    """
    return _PART.sub(lambda part: part["head"] + PARTS[part["name"]]() + part["tail"], text)


def parts_of(text: str) -> list[str]:
    return [part["name"] for part in _PART.finditer(text)]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rendered(page.read_text("utf-8")), "utf-8")
