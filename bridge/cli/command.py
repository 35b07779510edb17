"""
Owns what one bgctl command line does, and the exit status that it ends with.

Refuses: to let a traceback stand for an answer where the reason is known.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from bridge.cli import arguments, show
from bridge.cli.completion import script
from bridge.cli.desk import (
    TOKEN,
    Answers,
    LocalDesk,
    RemoteDesk,
    ServerRefusedError,
    ServerUnreachableError,
    choose,
    no_state_yet,
    policy,
    server,
)
from bridge.cli.harmless import harmless
from bridge.config import Config
from bridge.errors import BridgeError, ConfigError, NotBuiltError, StateError
from bridge.routing import Side, Stage

OK, REFUSED, USAGE, POLICY, UNREACHABLE, LATER, PARTLY = range(7)
"""
The exit statuses; C{bgctl --help} says what each means.
"""

INTERRUPTED = 130
"""
What shells expect of a command that Ctrl-C has ended.
"""


def _console() -> Console:
    # In a pipe nobody minds long lines, and a table that is folded can't be searched.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)


def run(words: Sequence[str]) -> int:
    """
    Carry one command line out.

    @return: The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no arrows is no reason to fail after the move.
            stream.reconfigure(errors="backslashreplace")
    parser = arguments.parser()
    given, unknown = parser.parse_known_args(words)
    if given.command in arguments.LATER:
        return _failed(
            f"`bgctl {given.command}`, to {arguments.LATER[given.command]}, is not part of this version yet.", LATER
        )
    if unknown:
        parser.unread(unknown, given.command)
    if given.command == "completion":
        print(script(given.shell, parser), end="")
        return OK
    try:
        return _carry_out(given)
    except NotBuiltError as error:
        return _failed(error, LATER)
    except ConfigError as error:
        said = str(error) if str(error).endswith((".", "?", "!")) else f"{error}."
        # Only where a file is what is wrong may a server know better.
        elsewhere = error.source in ("options", "the command line") or given.command == "check"
        way = "" if elsewhere else " A server that runs can be asked all the same: --admin URL."
        return _failed(f"{said}{way}", POLICY)
    except (StateError, ServerUnreachableError) as error:
        return _failed(error, REFUSED if type(error).__name__ == "StaleChangeError" else UNREACHABLE)
    except ServerRefusedError as error:
        if error.kind == "no_token":
            return _failed(_token(), REFUSED)
        return _failed(error, {"unavailable": UNREACHABLE, "not_built": LATER}.get(error.kind, REFUSED))
    except BridgeError as error:
        return _failed(error, REFUSED)
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains of the same pipe again
        return OK
    except KeyboardInterrupt:
        return _failed("Interrupted: `bgctl audit` shows whether anything was moved.", INTERRUPTED)


def _token() -> str:
    given = "isn't that of this server" if os.environ.get(TOKEN) else "isn't set here"
    return f"The server wants its token, and {TOKEN} {given}: set it to what the server was started with."


def _carry_out(given: Any) -> int:
    if given.admin not in (None, "off") and given.command != "check":
        # Who names a server needs no policy of their own: that may be what is broken.
        desk: Answers = server(given.admin)
    else:
        config = policy(given.config, given.state, _say)
        if given.command == "check":
            return _check(config, given)
        desk = choose(config, given.admin, given.state, _say)
    found, shown = _answer(given, desk)
    if given.json:
        print(json.dumps(found))
    else:
        shown(harmless(found), _console())
    if given.command == "rollback" and any(row["side"] == Side.MODERN.value for row in found["left"]):
        return PARTLY
    return OK


def _answer(given: Any, desk: Answers) -> tuple[Any, Callable[[Any, Console], None]]:
    match given.command:
        case "status":
            return desk.status(), show.status
        case "loops" if given.loop:
            return desk.loop(given.loop), show.loop
        case "loops":
            return desk.status(), show.loops
        case "route":
            return desk.route(given.route), show.route
        case "audit":
            return desk.audit(given.route, given.limit), show.audit
        case "parity" if given.accept or given.refuse:
            rule, status = (given.accept, "accepted") if given.accept else (given.refuse, "refused")
            return desk.answer(given.route, rule, status), show.answered
        case "parity":
            return desk.differences(given.route, given.limit), show.differences
        case "report":
            return desk.report(given.limit), show.report
        case "set":
            moved = desk.move(given.route, Stage(given.stage), given.weight, given.force, given.why)
            return moved, _one(show.moved)
        case "rollback":
            return desk.rollback(None if given.all else given.route, given.why), show.rolled_back
        case "handoff":
            return desk.hand_off(given.loop, given.stage, given.why), _one(show.moved)
    raise AssertionError(given.command)


def _check(config: Config, given: Any) -> int:
    named = config.legacy is not None or config.modern is not None
    rows = [
        {
            "what": "policy",
            "ok": named,
            "found": f"{config.source}: routes: {len(config.routes)}, loops: {len(config.loops)}"
            + ("" if named else "; it names no application, so no server starts with it"),
        },
        {"what": "state", "ok": True, "found": f"{config.state}: no state yet"}
        if no_state_yet(config)
        else _tried("state", lambda: LocalDesk(config).status(), config.state),
    ]
    admin = given.admin or config.admin
    if admin == "off":
        rows.append({"what": "server", "ok": True, "found": "not asked, the admin listener is off"})
    else:
        remote = choose(config, admin, None, _say)
        assert isinstance(remote, RemoteDesk)
        row = _tried("server", remote.status, remote.url)
        # Down is no fault of the policy; a server that was named is to answer.
        row["ok"] = row["ok"] or given.admin is None
        rows.append(row)
    ok = all(row["ok"] for row in rows)
    if given.json:
        print(json.dumps({"ok": ok, "checks": rows}))
    else:
        show.checked(harmless(rows), _console())
    return OK if ok else UNREACHABLE


def _tried(what: str, ask: Callable[[], Any], where: str) -> dict[str, Any]:
    try:
        found = ask()
    except BridgeError as error:
        return {"what": what, "ok": False, "found": str(error)}
    at = f"at change {found['version']}" if found["version"] else "nothing was ever moved"
    return {"what": what, "ok": True, "found": f"{where}: {at}"}


def _one(shown: Callable[[list[Any], Console], None]) -> Callable[[Any, Console], None]:
    return lambda found, console: shown([found], console)


def _say(message: str) -> None:
    print(f"bgctl: {message}", file=sys.stderr)


def _failed(message: object, status: int) -> int:
    _say(str(message))
    return status
