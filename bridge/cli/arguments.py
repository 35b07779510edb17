"""
Owns bgctl's command line, and what is said of one that can't be read: one line, with the
word that was probably meant.

Refuses: to look at a policy, a server or a database.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from bridge.routing import Stage

LATER = {
    "inventory": "list what a legacy application consists of",
    "scaffold": "write the skeleton of a route's modern version",
    "record": "keep a route's traffic for replays",
    "replay": "send kept traffic again",
    "retire": "check that legacy's code of a route can go, and retire it",
}
"""
Commands that are known and not part of this version yet.
"""

EXIT = """\
exit status:
  0  done
  1  refused: the rules don't allow it, or there is no such route
  2  the command line is wrong
  3  the policy can't be used
  4  the state database, or the server that was named, can't be reached; or check found a policy without an application
  5  not part of this version yet
  6  rolled back, and yet legacy doesn't do everything: what stays is named
  130  interrupted by Ctrl-C
"""

_QUOTES = ". The name of a route stands in quotes, like 'GET /me'"

EPILOG = (
    """\
With a server up whose admin listener is on, it asks the server. Else it works on the
state database itself and says so; a running server follows within a second.

"""
    + EXIT
)


class _Parser(argparse.ArgumentParser):
    """
    A parser whose refusal is one line.
    """

    def error(self, message: str) -> NoReturn:
        """
        Say what is wrong, where help is, and end.
        """
        print(f"bgctl: {message.rstrip('.')}. `{self.prog} --help` says what there is.", file=sys.stderr)
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        # argparse words this otherwise in each version of Python, and knows no neighbours.
        if action.choices is not None and value not in action.choices:
            known = [str(each) for each in action.choices]
            what = (
                "no command"
                if isinstance(action, argparse._SubParsersAction)
                else f"no {action.metavar or action.dest}"
            )
            quoted = _QUOTES if str(value).startswith("/") else ""
            self.error(f"{value!r} is {what}{meant(str(value), known)}; there are: {', '.join(known)}{quoted}")

    def unread(self, words: Sequence[str], command: str | None) -> NoReturn:
        """
        Refuse words that nobody took.
        """
        parser = self._command(command)
        options = [option for each in parser._actions for option in each.option_strings]
        word = words[0]
        near = meant(word.partition("=")[0], options) if word.startswith("-") else ""
        quoted = _QUOTES if any(each.startswith("/") for each in words) else ""
        parser.error(f"{word!r} is nothing that this takes{near}{quoted}")

    def _command(self, name: str | None) -> _Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and name in action.choices:
                found = action.choices[name]
                assert isinstance(found, _Parser)
                return found
        return self


def meant(word: str, known: Iterable[str]) -> str:
    """
    "Did you mean …", where something like it is known; else nothing.
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def parser() -> _Parser:
    """
    The whole command line, for parsing and for completion.
    """
    made = _Parser(
        prog="bgctl",
        # A prefix that is unique today needn't be tomorrow.
        allow_abbrev=False,
        description="Look at a bgserver, and move its routes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _shared(made, None)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        said = help[0].upper() + help[1:] + "."
        added = commands.add_parser(name, help=help, description=said, allow_abbrev=False)
        # After the command too; what stands before it isn't overwritten.
        _shared(added, argparse.SUPPRESS)
        return added

    command("check", "check policy, state and server, and change nothing")
    command("status", "where every route and loop stands, and what the gate says")

    route = command("route", "all about one route")
    _route(route)

    change = command("set", "move a route to a stage")
    _route(change)
    change.add_argument("stage", metavar="STAGE", choices=[s.value for s in Stage], help=_stages())
    change.add_argument("--weight", type=_percent, metavar="PERCENT", help="share of subjects that a canary moves")
    change.add_argument("--force", action="store_true", help="go without passing evidence; wants --why")
    change.add_argument("--why", default="", metavar="TEXT", help="the reason, for the audit log")

    back = command("rollback", "send a route, or all of them, back to legacy")
    which = back.add_mutually_exclusive_group(required=True)
    which.add_argument("route", nargs="?", metavar="ROUTE", help=_ROUTE)
    which.add_argument("--all", action="store_true", help="every route that isn't at legacy or retired")
    back.add_argument("--why", default="rollback", metavar="TEXT", help="the reason, for the audit log")

    parity = command("parity", "how a route's sides differ, with the request that shows it")
    _route(parity)
    parity.add_argument("--limit", type=_count, default=5, metavar="N", help="differences to show (default 5)")

    verdict = parity.add_mutually_exclusive_group()
    verdict.add_argument("--accept", metavar="RULE", help="leave a proposed difference out, under your name")
    verdict.add_argument("--refuse", metavar="RULE", help="go on comparing it, and don't propose it again")

    report = command("report", "the whole migration: stages, evidence, differences, changes")
    report.add_argument("--limit", type=_count, default=20, metavar="N", help="changes to show (default 20)")

    audit = command("audit", "the latest changes: who, when, from where to where, why")
    audit.add_argument("route", nargs="?", metavar="ROUTE", help=_ROUTE)
    audit.add_argument("--limit", type=_count, default=20, metavar="N", help="changes to show (default 20)")

    loops = command("loops", "where every background loop stands, and who runs it; or all about one")
    loops.add_argument("loop", nargs="?", metavar="LOOP", help="the loop's name in the policy")

    handoff = command("handoff", "hand a background loop over to a side")
    handoff.add_argument("loop", metavar="LOOP", help="the loop's name in the policy")
    handoff.add_argument(
        "stage", metavar="STAGE", choices=["legacy", "observe", "live", "modern"], help="its new stage"
    )
    handoff.add_argument("--why", default="", metavar="TEXT", help="the reason, for the audit log")

    complete = command("completion", "print the completion script of a shell")
    complete.add_argument("shell", choices=["bash", "zsh", "fish"], help="which shell")

    for name, text in LATER.items():
        later = command(name, f"{text} (not part of this version yet)")
        later.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


_ROUTE = 'its match text, like "GET /export/{export_id}", or "default"'


def _route(to: argparse.ArgumentParser) -> None:
    to.add_argument("route", metavar="ROUTE", help=_ROUTE)


def _stages() -> str:
    return ", ".join(stage.value for stage in Stage)


def _shared(to: argparse.ArgumentParser, default: str | None) -> None:
    to.add_argument("--config", metavar="FILE", default=default, help="the policy (default: ./bgserver.toml)")
    to.add_argument("--admin", metavar="URL", default=default, help="the server's admin listener")
    to.add_argument("--state", metavar="URL", default=default, help="the state database; asks no server")
    to.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="print the answer for programs",
    )


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of percent from 0 to 100")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return value
