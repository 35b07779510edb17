"""
Owns what one bgctl command line does, and the exit status that it ends with.

Refuses: to let a traceback stand for an answer where the reason is known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from bridge.cli import arguments, show
from bridge.cli.completion import script
from bridge.cli.desk import (
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
from bridge.config import Config
from bridge.errors import BridgeError, ConfigError, NotBuiltError, StateError
from bridge.routing import Stage

OK, REFUSED, USAGE, POLICY, UNREACHABLE, LATER = range(6)
"""
The exit statuses; C{bgctl --help} says what each means.
"""


def _console() -> Console:
    # In a pipe nobody minds long lines, and a table that is folded can't be searched.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=10_000)


def run(words: Sequence[str]) -> int:
    """
    Carry one command line out.

    @return: The exit status.
    """
    given, unknown = arguments.parser().parse_known_args(words)
    if given.command in arguments.LATER:
        return _failed(
            f"`bgctl {given.command}`, to {arguments.LATER[given.command]}, is not part of this version yet.", LATER
        )
    if unknown:
        arguments.parser().error(f"unrecognized arguments: {' '.join(unknown)}")
    if given.command == "completion":
        print(script(given.shell, arguments.parser()), end="")
        return OK
    try:
        return _carry_out(given)
    except NotBuiltError as error:
        return _failed(error, LATER)
    except ConfigError as error:
        asked = given.command == "check" or given.admin not in (None, "off")
        way = "" if asked else " A server that runs can be asked all the same: --admin URL."
        return _failed(f"{error}{way}", POLICY)
    except (StateError, ServerUnreachableError) as error:
        return _failed(error, REFUSED if type(error).__name__ == "StaleChangeError" else UNREACHABLE)
    except ServerRefusedError as error:
        return _failed(error, {"unavailable": UNREACHABLE, "not_built": LATER}.get(error.kind, REFUSED))
    except BridgeError as error:
        return _failed(error, REFUSED)
    except BrokenPipeError:
        sys.stderr.close()  # or the interpreter complains of the same pipe again
        return OK


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
    _print(given, found, shown)
    return OK


def _print(given: Any, found: Any, shown: Callable[[Any, Console], None]) -> None:
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        shown(found, _console())


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
            rolled = desk.rollback(None if given.all else given.route, given.why)
            loops = desk.status() if given.all and not given.json else {"loops": []}

            def shown(found: Any, console: Console) -> None:
                show.moved(found["moved"], console)
                show.left_behind(loops, console)

            return {"moved": rolled}, shown
        case "handoff":
            return desk.hand_off(given.loop, given.stage, given.why), _one(show.moved)
    raise AssertionError(given.command)


def _check(config: Config, given: Any) -> int:
    named = config.legacy is not None or config.modern is not None
    rows = [
        {
            "what": "policy",
            "ok": named,
            "found": f"{config.source}: {len(config.routes)} routes, {len(config.loops)} loops"
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
        print(json.dumps({"ok": ok, "checks": rows}, ensure_ascii=False))
    else:
        show.checked(rows, _console())
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


def _inside(key: str, shown: Callable[[Any, Console], None]) -> Callable[[Any, Console], None]:
    return lambda found, console: shown(found[key], console)


def _say(message: str) -> None:
    print(f"bgctl: {message}", file=sys.stderr)


def _failed(message: object, status: int) -> int:
    _say(str(message))
    return status
