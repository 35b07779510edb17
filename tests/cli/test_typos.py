"""
A slip of the pen is one line on standard error, with what was probably meant.
"""

from __future__ import annotations

import pytest

from bridge.cli.arguments import LATER, parser
from tests.cli.conftest import Bgctl


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statsu"], "did you mean 'status'?"),
        (["--jsn", "status"], "did you mean '--json'?"),
        (["status", "--jsn"], "did you mean '--json'?"),
        (["set", "GET /", "lgacy"], "did you mean 'legacy'?"),
        (["set", "GET /", "canary", "--wieght=5"], "did you mean '--weight'?"),
        (["set", "GET", "/me", "live"], "The name of a route stands in quotes"),
        (["route", "GET", "/me"], "The name of a route stands in quotes"),
        (["set", "GET /"], "STAGE"),
        (["set", "GET /", "canary", "--weight", "lots"], "from 0 to 100"),
        (["handoff", "consumer", "lvie"], "did you mean 'live'?"),
        (["completion", "zhs"], "did you mean 'zsh'?"),
        (["rollback"], "--all"),
        (["rollback", "GET /", "--all"], "not allowed with"),
        (["parity", "GET /", "--limit", "0"], "from 1 on"),
        (["parity", "GET /", "--accept"], "--accept"),
        (["audit", "--forc"], "'--forc'"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_command_line_says_what_was_meant(bgctl: Bgctl, words: list[str], said: str) -> None:
    """
    One line, where help is, exit status 2.

    Seen to fail with argparse's own words: a page of usage, and no neighbour.
    """
    found = bgctl(*words)

    assert (2, "") == (found.status, found.out)
    assert 1 == found.err.count("\n")
    assert found.err.startswith("bgctl: ")
    assert said in found.err
    assert "--help` says what there is." in found.err


def test_every_command_refuses_an_option_that_it_does_not_have(bgctl: Bgctl) -> None:
    """
    In one line that names the command, whatever else it takes.
    """
    (commands,) = (each for each in parser()._actions if each.dest == "command")
    given = {"set": ["x", "live"], "handoff": ["x", "live"], "completion": ["bash"], "rollback": ["x"]}
    given |= {name: ["x"] for name in ("route", "parity")}

    for name in set(commands.choices or ()) - set(LATER):
        said = bgctl(name, *given.get(name, []), "--confg", "f")

        assert (2, 1) == (said.status, said.err.count("\n"))
        assert "did you mean '--config'?" in said.err
        assert f"`bgctl {name} --help`" in said.err


def test_no_option_may_be_cut_short(bgctl: Bgctl) -> None:
    """
    What is unique today needn't be tomorrow, and scripts live longer.
    """
    assert 2 == bgctl("status", "--js").status
