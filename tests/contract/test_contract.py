"""
Every case of cases.toml, on every target: each application alone, and each through bgserver in both ownership modes.

The servers are real processes behind real sockets, one for each target, started when its first case comes.
"""

from __future__ import annotations

import pytest

from tests.contract.cases import Case, load
from tests.contract.runner import Runner

CASES = load()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_contract(runner: Runner, case: Case) -> None:
    """
    What the case promises holds: every status, body, header and effect, and nothing besides.
    """
    problems = runner.run(case)

    assert not problems, "\n".join(problems)
