"""
How rows become lines at a width: nothing is cut, at no width.
"""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from bridge.cli import show
from bridge.cli.tables import table

ROUTES = [
    {"route": name, "stage": "legacy", "weight": 0, "pairs": 0, "mismatches": 0, "gate": "hold", "why": why}
    for name, why in [
        ("GET /", "needs 321 more pairs, and more words than a narrow terminal has room for beside its columns"),
        *((f"POST /send-notification/{n}/{{email}}", "promote is manual: a person starts it") for n in range(8)),
        ("GET /日本語/{größe}/and/a/tail/that/is/longer/than/any/column/of/eighty/characters/has", "it is new"),
        ("default", "its effects are external"),
    ]
]
FOUND = {"routes": ROUTES, "loops": [{"loop": "consumer", "stage": "live", "owner": None, "epoch": 3}]}


def printed(width: int, found: dict[str, object] = FOUND, **options: object) -> list[str]:
    out = io.StringIO()
    show.status(found, Console(file=out, width=width, highlight=False, **options))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200, 10_000])
def test_a_status_is_whole_at_every_width(width: int) -> None:
    """
    Each route, its figures and its reason can be read, and no line is longer than the terminal.

    Seen to fail at 80 with the reason cut to what room there was.
    """
    lines = printed(width)

    # Wrapping moves words to other lines and loses none.
    squeezed = re.sub(r"\s+", "", "".join(lines))
    for row in ROUTES:
        assert re.sub(r"\s+", "", row["why"]) in squeezed
        if len(row["route"]) < 60 and "{email}" not in row["route"]:
            assert any(line.startswith(f"{row['route']} ") for line in lines), row["route"]
        assert row["route"].replace(" ", "") in squeezed
    assert "…" not in squeezed
    assert max(map(cell_len, lines)) <= width
    assert lines == [line.rstrip() for line in lines]


def test_a_reason_that_many_rows_share_is_said_once_where_there_is_no_room() -> None:
    """
    Twenty routes that wait for the same person don't take forty lines.
    """
    narrow, piped = printed(80), printed(10_000)

    assert 1 == sum("promote is manual" in line for line in narrow)
    assert "8 routes: promote is manual: a person starts it" in narrow
    assert 8 == sum("promote is manual" in line for line in piped)
    assert 1 + len(ROUTES) == next(n for n, line in enumerate(piped) if not line)


def test_figures_stand_right_and_a_long_name_has_its_own_line() -> None:
    """
    Columns stay columns, whatever one name does.
    """
    out = io.StringIO()
    rows = [("a", "7", ""), ("b" * 60, "12345", "")]

    table(Console(file=out, width=30), ("name", ">n", ""), rows)

    lines = out.getvalue().splitlines()
    assert ["b" * 30, "b" * 30] == lines[2:4]
    assert [30, 30] == [len(lines[n]) for n in (1, 4)]
    assert ["7", "12345"] == [lines[n].split()[-1] for n in (1, 4)]


def test_nothing_is_coloured_where_nobody_wants_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    NO_COLOR, whatever the terminal can do.
    """
    assert any(("\x1b[" in line and ";3" in line) or "\x1b[3" in line for line in _live())

    monkeypatch.setenv("NO_COLOR", "1")

    assert not any(re.search(r"\x1b\[[0-9;]*3[0-9]m", line) for line in _live())


def _live() -> list[str]:
    found = {"routes": [{**ROUTES[0], "stage": "live"}], "loops": []}
    return printed(80, found, force_terminal=True, color_system="standard")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_both_sides_of_a_long_difference_can_be_read(width: int) -> None:
    """
    Beside each other where there is room, else one under the other.
    """
    sample = {
        "curl": "curl -i http://127.0.0.1/",
        "differences": [{"fingerprint": "f", "path": "$.a", "legacy": "left " * 14, "modern": "right " * 14}],
    }
    row = {"kind": "value", "path": "$.a", "count": 1, "last_at": 0.0, "fingerprint": "f", "sample": sample}
    out = io.StringIO()

    found = {"route": "GET /", "differences": [row], "proposals": [], "counts": {}}
    show.differences(found, Console(file=out, width=width, highlight=False))

    words = out.getvalue().split()
    assert [14, 14] == [words.count("left"), words.count("right")]
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_a_sample_that_was_too_long_is_no_traceback() -> None:
    """
    Of a request that didn't fit only the difference is known, and of such a tick its key.

    Seen to end in KeyError: 'curl'.
    """
    row = {"kind": "value", "path": "$", "count": 1, "last_at": 0.0, "fingerprint": "f", "sample": {"request": None}}
    out = io.StringIO()
    console = Console(file=out, width=80)

    show.differences({"route": "GET /", "differences": [row], "proposals": [], "counts": {}}, console)
    loop = {"loop": "c", "stage": "observe", "owner": "legacy", "epoch": 1, "audit": []}
    show.loop({**loop, "differences": [{**row, "sample": {"tick": "c@1"}}]}, console)

    assert "too long to be kept" in out.getvalue()
    assert "too much to be kept" in out.getvalue()
    assert "no such tick" not in out.getvalue()


@pytest.mark.parametrize("width", [60, 200])
def test_the_audit_log_has_every_word(width: int) -> None:
    """
    Who and why too, where the terminal is narrow.
    """
    standing = {"stage": "legacy", "weight": 0}
    change = {"at": 0.0, "who": "ann@build-host-17", "route": "GET /export/{export_id}", "forced": True}
    rows = [{**change, "from": standing, "to": {"stage": "canary", "weight": 12.5}, "why": "the ticket " * 5}]
    out = io.StringIO()

    show.audit(rows, Console(file=out, width=width, highlight=False))

    text = " ".join(out.getvalue().split())
    for word in ("ann@build-host-17", "GET /export/{export_id}", "legacy", "canary 12.5 %", "forced: the ticket"):
        assert word in text
    assert 5 == text.count("the ticket")
