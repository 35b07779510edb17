"""
Owns how rows become lines that fit a terminal: nothing is ever cut.

Where the columns don't fit, the last one, which says why, goes below its row; a first
cell that is too long has a line to itself; and a reason that many rows share is said
once, at the end.  In a pipe, where nobody minds long lines, each row is one line.

Refuses: to know what the rows are about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

_GAP = 2
_INDENT = 4
# A reason in a narrower column than this is a ribbon of single words.
_READABLE = 32
# So many rows with the same reason are said at once.
_MANY = 3
_NAMED = 6


def table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str | Text]], shared: str = "") -> None:
    """
    Print rows under their heads.

    @param heads: One for each column, with C{>} before it where figures stand right.  The
        last one is free text, and may be long.
    @param shared: What rows are called, like "routes": where reasons have no room beside
        their rows, those of many rows are said once.
    """
    for line in lines(console, heads, rows, shared):
        line.rstrip()
        console.print(line, soft_wrap=True)


def width_of(rows: Sequence[Sequence[str | Text]]) -> int:
    """
    Characters that rows take beside each other, whole.
    """
    cells = [[each if isinstance(each, Text) else Text(each) for each in row] for row in rows]
    return sum(max(row[n].cell_len for row in cells) + _GAP for n in range(len(cells[0]))) - _GAP if cells else 0


def lines(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str | Text]], shared: str) -> Iterator[Text]:
    """
    The lines of L{table}.
    """
    cells = [[each if isinstance(each, Text) else Text(each) for each in row] for row in rows]
    names = [head.removeprefix(">") for head in heads]
    widths = [max([len(name), *(row[n].cell_len for row in cells)]) for n, name in enumerate(names[:-1])]
    rest = sum(widths[1:]) + _GAP * (len(widths) - 1)
    widths[:1] = [max(len(names[0]), min(widths[0], console.width - rest))] if widths else []
    room = console.width - sum(widths) - _GAP * len(widths)
    longest = max((row[-1].cell_len for row in cells), default=0)
    beside = not widths or not longest or room >= min(longest, _READABLE)
    said: dict[str, list[str]] = {}
    if not beside and shared:
        for row in cells:
            said.setdefault(row[-1].plain, []).append(row[0].plain)
        said = {why: those for why, those in said.items() if why and len(those) >= _MANY}
    right = [head.startswith(">") for head in heads]
    if any(names):
        yield _row([Text(name, "dim") for name in (names if beside else names[:-1])], widths, right)
    for row in cells:
        fixed = row[:-1]
        if fixed and fixed[0].cell_len > widths[0]:
            yield from _folded(console, fixed[0], console.width)
            fixed = [Text(), *fixed[1:]]
        if beside:
            first, *more = _folded(console, row[-1], max(room, 1)) or [Text()]
            yield _row([*fixed, first], widths, right)
            for line in more:
                yield Text(" " * (sum(widths) + _GAP * len(widths))) + line
            continue
        yield _row(fixed, widths, right)
        if row[-1].plain and row[-1].plain not in said:
            yield from _below(console, row[-1])
    for why, those in said.items():
        which = ", ".join(those) if len(those) <= _NAMED else f"{len(those)} {shared}"
        yield from _folded(console, Text(f"{which}: {why}", "dim"), console.width)


def _below(console: Console, text: Text) -> Iterator[Text]:
    for line in _folded(console, text, max(console.width - _INDENT, 1)):
        line.stylize("dim")
        yield Text(" " * _INDENT) + line


def _row(cells: Sequence[Text], widths: Sequence[int], right: Sequence[bool]) -> Text:
    made = Text()
    for n, cell in enumerate(cells):
        if n < len(widths):
            padding = " " * (widths[n] - cell.cell_len)
            made.append_text(Text(padding) + cell if right[n] else cell + Text(padding))
            made.append(" " * _GAP)
        else:
            made.append_text(cell)
    return made


def _folded(console: Console, text: Text, width: int) -> list[Text]:
    """
    A text in lines, between words where it can be.
    """
    return list(text.wrap(console, width, overflow="fold"))
