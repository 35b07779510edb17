"""
Owns the one family of errors that this package raises on purpose.

Each message says what happened, why it matters where that isn't plain, and what
to do about it; what a program may want to know is an attribute.

Refuses: to wrap what it can't explain. An unexpected exception stays itself.
"""

from __future__ import annotations


class BridgeError(Exception):
    """
    Anything that this package refuses or can't do, in words for an operator.
    """


class ConfigError(BridgeError):
    """
    A policy, an option or an environment variable that can't be used.

    @ivar source: The file (or "options", or a variable's name) that says it.
    @ivar key: The path of the key in it, like C{route[2].canary.weight}; empty
        where the source as a whole is at fault.
    """

    def __init__(self, source: str, key: str, problem: str) -> None:
        where = f"{source}: {key}: " if key else f"{source}: "
        super().__init__(where + problem)
        self.source = source
        self.key = key
        self.problem = problem


class NotBuiltError(ConfigError):
    """
    The policy asks for something that this version knows but doesn't have yet.
    """


class PatternError(BridgeError):
    """
    A route's match text that can't be read.
    """

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(
            f"{text!r} is no route: {problem}. "
            'Write it like "GET /export/{export_id}" or "GET,POST /files/{rest:path}".'
        )
        self.text = text
        self.problem = problem


class RouteConflictError(BridgeError):
    """
    Two routes that would match the same requests.
    """

    def __init__(self, first: str, second: str, method: str) -> None:
        super().__init__(
            f"{first!r} and {second!r} both match the same {method} requests, so "
            "neither could be moved without the other. Remove one of them, or one "
            "of its methods (GET covers HEAD)."
        )
        self.first = first
        self.second = second
        self.method = method


class UnknownRouteError(BridgeError):
    """
    A route was named that the policy doesn't have.
    """

    def __init__(self, name: str, nearest: str | None = None) -> None:
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        super().__init__(f"The policy has no route {name!r}.{hint} `bgctl status` lists them.")
        self.name = name
        self.nearest = nearest


class UnknownLoopError(BridgeError):
    """
    A loop was named that the policy doesn't have.
    """

    def __init__(self, name: str, known: list[str]) -> None:
        there = f"It has: {', '.join(known)}." if known else "It names none: add a [[loop]]."
        super().__init__(f"The policy has no loop {name!r}. {there}")
        self.name = name


class StateError(BridgeError):
    """
    The state database refuses, or can't be reached.
    """


class StateUnavailableError(StateError):
    """
    The state database can't be opened, read or written now.

    @ivar cause: What the database driver said.
    """

    def __init__(
        self,
        url: str,
        doing: str,
        cause: str,
        remedy: str = "Check that it exists and is writable.",
    ) -> None:
        super().__init__(f"The state database {url} can't {doing}: {cause}. {remedy}")
        self.url = url
        self.doing = doing
        self.cause = cause


class ReplacedStateError(StateUnavailableError):
    """
    Another state database stands where the one was that a server began with.
    """

    def __init__(self, url: str) -> None:
        super(StateUnavailableError, self).__init__(
            f"The state database {url} isn't the one that this server began with: that one was taken away, and "
            "another made in its place. Restart the server to go on with the new one, or put the old one back."
        )
        self.url = url
        self.doing = "be followed"
        self.cause = "another one was made in its place"


class DamagedStateError(StateUnavailableError):
    """
    The state database isn't whole: nothing is guessed of what is missing.
    """

    def __init__(self, url: str, doing: str, cause: str) -> None:
        super().__init__(
            url,
            doing,
            cause,
            "Put a back-up in its place; or move it away, and every route begins anew where the policy starts it.",
        )


class NewerStateError(StateError):
    """
    The state database was written by a later version of this software.
    """

    def __init__(self, url: str, found: int, known: int) -> None:
        super().__init__(
            f"The state database {url} has schema {found}, and this version knows "
            f"{known} at most. Upgrade bgserver, or point --state at another database."
        )
        self.url = url
        self.found = found
        self.known = known


class StaleChangeError(StateError):
    """
    A stage wasn't changed, because it had been changed in the meantime.
    """

    def __init__(self, route: str, expected: str, found: str) -> None:
        super().__init__(
            f"{route!r} is at {found}, not at {expected} any more: somebody else "
            "changed it first. Look at `bgctl route`, then decide again."
        )
        self.route = route
        self.expected = expected
        self.found = found


class RefusedChangeError(BridgeError):
    """
    A change of stage that the rules don't allow as it was asked for.
    """

    def __init__(self, route: str, stage: str, reason: str, remedy: str) -> None:
        super().__init__(f"{route!r} stays where it is, not {stage}: {reason}. {remedy}")
        self.route = route
        self.stage = stage
        self.reason = reason


class WrongReactorError(BridgeError):
    """
    Another reactor was installed before ours could be.

    @ivar installed: The class of the reactor that is there.
    @ivar importer: The module that imported it first, as far as that can be told.
    """

    def __init__(self, installed: str, importer: str) -> None:
        super().__init__(
            f"{importer} imported twisted.internet.reactor first and got {installed}, "
            "which this server can't run on. Call bridge.loop.install() before that "
            "import, move the import into the function that needs it, or start with "
            "`twistd -n bgserver`."
        )
        self.installed = installed
        self.importer = importer


class WrongLoopError(BridgeError):
    """
    The event loop that was asked for is not the one that is there, or can't be had.
    """


class EarlyRunError(BridgeError):
    """
    An application ran the reactor by itself while it was being loaded.
    """

    def __init__(self) -> None:
        super().__init__(
            "reactor.run() was called while the application was being loaded, and would never have come back from "
            f"there. {self.remedy}"
        )

    remedy = (
        "bgserver runs the reactor: put that call under `if __name__ == '__main__':`, and name what is made before it."
    )


class NoRunningLoopError(BridgeError):
    """
    Something that needs the running event loop was called before it ran.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs the running event loop, and there is none yet. Call it from "
            "startService or reactor.callWhenRunning, once the reactor runs."
        )
        self.what = what


class StoppingError(BridgeError):
    """
    Work was handed over after the stop began; nothing would ever run it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was refused: the server is stopping, and would never run it. "
            "Check for the stop before handing work over, or finish it in a stop phase."
        )
        self.what = what


class StartError(BridgeError):
    """
    A start-up step failed; what had been started before it was stopped again.

    @ivar phase: The phase that the step belongs to.
    @ivar step: The step's name.
    """

    def __init__(self, phase: str, step: str, cause: BaseException) -> None:
        super().__init__(
            f"Start-up failed in {phase}, at {step}: {str(cause) or type(cause).__name__}. "
            "Nothing was left running; mend the cause and start again."
        )
        self.phase = phase
        self.step = step


class LoadError(BridgeError):
    """
    What C{--legacy} or C{--modern} names can't be used.
    """

    def __init__(self, option: str, text: str, problem: str, remedy: str) -> None:
        super().__init__(f"{option} {text!r}: {problem}. {remedy}")
        self.option = option
        self.text = text
        self.problem = problem
        self.remedy = remedy


class LifespanError(BridgeError):
    """
    An ASGI application failed to start or to shut down.
    """

    def __init__(self, name: str, doing: str, problem: str) -> None:
        super().__init__(f"{name} failed to {doing}: {problem}. Its own log says more.")
        self.name = name
        self.problem = problem


class ListenError(BridgeError):
    """
    An address can't be listened on.
    """

    def __init__(self, address: str, problem: str, remedy: str) -> None:
        super().__init__(f"Can't listen on {address}: {problem}. {remedy}")
        self.address = address
        self.problem = problem


class SiteChoiceError(BridgeError):
    """
    Legacy listens with several Sites, and nobody said which one's routes move.

    @ivar addresses: Where each of them listens.
    """

    def __init__(self, addresses: list[str], asked: str | None) -> None:
        found = "; ".join(addresses) if addresses else "none"
        problem = f"--site {asked} names none of them" if asked else "only one can have routes that move"
        super().__init__(
            f"The legacy application's Sites listen on: {found}, and {problem}. "
            "Give --site one of these addresses; the others are served as they are."
        )
        self.addresses = addresses
        self.asked = asked
