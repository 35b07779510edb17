"""
The board, of a report made by hand: nothing that an operator has to see is left out of it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from bridge.admin.board import AGAIN, board_of

QUIET: dict[str, Any] = {
    "policy": "a & b.toml",
    "stages": {"legacy": 1, "shadow": 1, "canary": 0},
    "force_legacy": False,
    "state": {"problem": None},
    "evidence": {"problem": None},
    "routes": [
        {
            "route": "GET /a",
            "stage": "shadow",
            "weight": 0.0,
            "pairs": 41,
            "mismatches": 7,
            "gate": "hold",
            "why": "needs <3> more pairs",
        }
    ],
    "loops": [],
    "differences": [],
    "audit": [],
}
LOOP = {"loop": "consumer", "stage": "legacy", "owner": "legacy", "epoch": 12, "restarts": 0}


def shown(**more: Any) -> str:
    return board_of({**QUIET, **more}, "http://here/", 1_700_000_000.0)


def rows(page: str) -> list[list[str]]:
    """
    The cells of each row, as text.
    """
    found = ([cell.strip() for cell in re.findall("<td[^>]*>([^<]*)", row)] for row in page.split("<tr>"))
    return [row for row in found if row]


def trouble(page: str) -> list[str]:
    return re.findall('<p class="trouble">([^<]*)</p>', page)


def test_a_quiet_server_has_its_routes_and_no_empty_tables() -> None:
    """
    How many stand where, each route's figures in their places, the moment, and when the page asks again.

    Seen to fail with pairs for differences, with stages that have no route, with a clock of another zone, and without
    the refresh.
    """
    page = shown()

    assert "Routes: 1 at legacy, 1 at shadow. Policy: <code>a &amp; b.toml</code>." in page
    assert [["GET /a", "shadow", "41", "7", "hold", "needs &lt;3&gt; more pairs"]] == rows(page)
    assert '<td class="shadow">shadow<td class="number">41<td class="number">7<td class="hold">hold' in page
    assert "As of 2023-11-14 22:13:20 UTC" in page
    assert f'http-equiv="refresh" content="{AGAIN}"' in page
    assert [] == trouble(page)
    assert [] == [head for head in ("Loops", "Differences", "Last changes") if f"<h2>{head}</h2>" in page]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"force_legacy": True}, "FORCE_LEGACY: legacy answers everything"),
        ({"state": {"problem": "disk <full>"}}, "The state can&#x27;t be stored: disk &lt;full&gt;"),
        ({"evidence": {"problem": "locked"}}, "The evidence can&#x27;t be stored: locked"),
        (
            {"loops": [{**LOOP, "restarts": 3, "last_error": "KeyError: 'x'"}]},
            "The loop consumer died 3 times, last: KeyError: &#x27;x&#x27;",
        ),
    ],
)
def test_each_trouble_stands_above_everything(more: dict[str, Any], says: str) -> None:
    """
    One line for each, before the tables.

    Seen to fail for each of them with its line taken out: the board's only test had no trouble.
    """
    page = shown(**more)

    [line] = trouble(page)
    assert line.startswith(says)
    assert page.index('class="trouble"') < page.index("<h2>Routes</h2>")


def test_loops_differences_and_changes_are_told_whole() -> None:
    """
    Who runs a loop or nobody, where it is going, what its dry run counted; what differs where and when; and who moved
    what from where to where, and whether that was forced.

    Seen to fail without the arrow, the counts, nobody, the word forced, and either table.
    """
    difference = {"path": "$.a", "kind": "value", "count": 5, "last_at": 60.0}
    change = {
        "at": 61.0,
        "who": "ann",
        "route": "GET /a",
        "from": {"stage": "legacy", "weight": 0.0},
        "to": {"stage": "canary", "weight": 2.5},
        "forced": True,
        "why": "a try",
    }
    page = shown(
        loops=[
            {**LOOP, "towards": "live", "observed": {"same": 8, "different": 1}},
            {**LOOP, "loop": "rescue", "owner": None},
        ],
        differences=[{"route": "GET /a", "differences": [difference]}],
        audit=[change, {**change, "route": None, "loop": "consumer", "forced": False}],
    )

    assert [
        ["consumer", "legacy → live", "legacy", "12", "8 same, 1 different"],
        ["rescue", "legacy", "nobody", "12", ""],
        ["GET /a", "$.a", "value", "5", "1970-01-01 00:01:00 UTC"],
        ["1970-01-01 00:01:01 UTC", "ann", "GET /a", "legacy", "canary 2.5 %", "forced: a try"],
        ["1970-01-01 00:01:01 UTC", "ann", "consumer", "legacy", "canary 2.5 %", "a try"],
    ] == rows(page)[1:]
