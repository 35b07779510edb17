"""
bgctl, the operator's command.

- L{arguments}: what it takes.
- L{desk}: whom it asks: a running server, or the state database itself.
- L{show}: how an answer looks to a person; with C{--json} it is printed as it is.
- L{command}: carries one command line out, and says its exit status.

Importing this loads nothing but the argument parser's own module.
"""

from __future__ import annotations


def main() -> None:
    """
    The console script.
    """
    import sys

    from bridge.cli.command import run

    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
