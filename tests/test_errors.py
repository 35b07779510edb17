"""
What goes wrong is said in words for an operator: what happened, and what to do about it.
"""

from __future__ import annotations

import pytest

from bridge import errors as e


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (e.UnknownLoopError("x", ["a", "b"]), ("'x'", "a, b")),
        (e.UnknownLoopError("x", []), ("'x'", "[[loop]]")),
        (e.StateUnavailableError("sqlite:///s", "be read", "gone"), ("sqlite:///s", "gone", "writable")),
        (e.ReplacedStateError("sqlite:///s"), ("sqlite:///s", "in its place", "Restart", "put the old one back")),
        (e.DamagedStateError("sqlite:///s", "be read", "no table of stages"), ("sqlite:///s", "no table of stages")),
        (e.EarlyRunError(), ("reactor.run()", "while the application was being loaded")),
        (e.NewerStateError("sqlite:///s", 9, 1), ("schema 9", "Upgrade")),
        (e.StaleChangeError("GET /", "legacy", "live"), ("at live", "bgctl route")),
        (e.RefusedChangeError("GET /", "live", "no evidence", "Wait."), ("no evidence", "Wait.")),
        (e.WrongReactorError("EPoll", "some.module"), ("some.module", "twistd -n bgserver")),
        (e.NoRunningLoopError("This"), ("This", "callWhenRunning")),
        (e.StoppingError("The job"), ("The job", "stopping")),
        (e.StartError("accept", "listeners", OSError("taken")), ("accept", "listeners", "taken")),
        (e.StartError("accept", "listeners", OSError()), ("OSError",)),
        (e.LoadError("--legacy", "a:b", "no such module", "Check it."), ("--legacy", "a:b", "Check it.")),
        (e.LifespanError("modern", "start", "it said no"), ("modern", "it said no")),
        (e.ListenError("tcp:1", "in use", "Choose another."), ("tcp:1", "in use", "Choose another.")),
        (e.SiteChoiceError(["a:1", "b:2"], None), ("a:1; b:2", "--site")),
        (e.SiteChoiceError([], "c:3"), ("none", "--site c:3")),
    ],
)
def test_an_error_says_what_and_how_to_mend_it(error: e.BridgeError, says: tuple[str, ...]) -> None:
    """
    Each message names the thing and the remedy.
    """
    text = str(error)

    assert [] == [word for word in says if word not in text]
