"""
Owns the command line of `twistd bgserver`: what it takes, and which policy follows.

The reactor is installed here, in L{Options.postOptions}: it is the first moment at
which C{--loop} is known, and the last at which nothing has imported another one.

Refuses: to start anything.  What can't be used is one line on standard error and an
exit status, without twistd's own page of usage.
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from twisted.python import usage

from bridge.config import BUILT, FRONTS, LOOPS, Config
from bridge.errors import BridgeError
from bridge.policy import find_policy

USAGE_ERROR = 2
"""
Exit status where the command line, a policy or an application can't be used.
"""


def refuse(message: object) -> NoReturn:
    """
    Say why nothing starts, in one line, and exit.
    """
    sys.stderr.write(f"bgserver: {message}\n")
    raise SystemExit(USAGE_ERROR)


class Options(usage.Options):
    """
    See C{docs/commands.md}; every option but C{--config}, C{--loop} and C{--version} has its
    counterpart in bgserver.toml.
    """

    synopsis = "[options]"
    longdesc = (
        "Serve a Twisted web application and its FastAPI successor in one process, on one "
        "event loop, behind one port, and move one route at a time with bgctl. "
        "Without options it runs ./bgserver.toml, or else the example application."
    )

    optParameters = [
        ["config", "c", None, "The policy, a TOML file. [default: ./bgserver.toml, if it is there]"],
        ["front", None, None, f"Which server speaks HTTP: {' or '.join(FRONTS)} (not yet). [default: uvicorn]"],
        ["legacy", None, None, "The Twisted application: module:name, a .tac file, or 'plugin:NAME ARGUMENTS'."],
        ["modern", None, None, "The ASGI application or its factory, as module:name."],
        ["loop", None, None, f"The event loop: {', '.join(LOOPS)}. [default: auto]"],
        ["state", None, None, "The state database's URL. [default: sqlite:///bgserver.db]"],
        ["admin", None, None, "Where the operator's API listens, or off. [default: off]"],
        ["site", None, None, "The address of the Site whose routes move, where legacy listens with several."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.config: Config | None = None
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """
        Where to listen, like tcp:8000:interface=127.0.0.1; may be given several times.
        """
        self["listen"].append(endpoint)

    opt_l = opt_listen

    def opt_version(self) -> NoReturn:
        """
        Show the versions of bgserver, Twisted and uvicorn, and exit.
        """
        from importlib.metadata import version

        names = ("bgserver", "twisted", "uvicorn")
        sys.stdout.write(", ".join(f"{name} {version(name)}" for name in names) + "\n")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """
        There are none, only options.
        """
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r} isn't an option; all of them begin with --")

    def parseOptions(self, options: Any = None) -> None:
        """
        Parse, and refuse in one line what can't be used.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse(f"{error}. `twistd bgserver --help` lists the options.")

    def postOptions(self) -> None:
        """
        Find the policy, and install the reactor that it asks for.
        """
        from bridge.loop import install

        # twistd, unlike uvicorn, leaves it out.
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            install(self["loop"] or "auto")
            self.config = self._policy()
        except BridgeError as error:
            refuse(error)

    def _policy(self) -> Config:
        policy = find_policy(
            config=self["config"],
            legacy=self["legacy"],
            modern=self["modern"],
            cwd=Path.cwd(),
            example=Path(str(files("twistd_plugin") / "example.toml")),
            environ=os.environ,
            built=BUILT,
        )
        options = {key: None if self[key] == [] else self[key] for key in _OPTIONS}
        return policy.merged(base=Path.cwd(), built=BUILT, **options)


_OPTIONS = ("listen", "admin", "state", "front", "loop", "site", "legacy", "modern")
