"""
README's commands, as its reader would type them: what a test or the build runs is what stands there.

A block is named by the comment before it: `<!-- command: tests -->`, then a fenced block.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"

_BLOCK = re.compile(r"<!-- command: (?P<name>[\w-]+) -->\s*```\w*\n(?P<text>.*?)```", re.DOTALL)


def commands() -> dict[str, str]:
    """
    Every named block of README, without its fence.
    """
    return {found["name"]: found["text"].strip() for found in _BLOCK.finditer(README.read_text("utf-8"))}


if __name__ == "__main__":
    print(commands()[sys.argv[1]])
