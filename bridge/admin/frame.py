"""
Owns how the pages of the admin listener are framed: one answer each, with no script, no
font, no picture, nothing from another host.  So they work without the internet, and a
browser is told to run nothing beside the hand that moves routes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid #8886; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-top: 1px solid #8886; }
th { font-weight: 600; }
td.number, th.number { text-align: right; padding-right: 1.6rem; }
.board { max-width: 80rem; }
.board td:not(:last-child) { white-space: nowrap; }
.trouble { color: #b3261e; font-weight: 600; }
.quiet { opacity: .7; }
.shadow { color: #00697a; } .canary { color: #8a5a00; } .live, .promote { color: #1b6e2e; }
.modern { color: #1b6e2e; font-weight: 600; } .retired { opacity: .6; } .demote, .rollback { color: #b3261e; }
.method { display: inline-block; min-width: 3.2rem; }
.post { color: #b3261e; }
@media (prefers-color-scheme: dark) {
  .post, .trouble, .demote, .rollback { color: #ff8a80; }
  .shadow { color: #6fd6e8; } .canary { color: #f0c05a; } .live, .promote, .modern { color: #7fd893; }
}
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""
What a browser is told beside the page: to load and to run nothing, and to let no other page frame it.
"""


def framed(title: str, parts: Iterable[str], *, again: int = 0, kind: str = "") -> str:
    """
    A page, as HTML.

    @param parts: What stands in it, as HTML, line by line.
    @param again: Seconds after which a browser asks anew; 0: never.
    @param kind: A class of the style above, for the whole page.
    """
    head = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        *([f'<meta http-equiv="refresh" content="{again}">'] if again else []),
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<body class="{escape(kind)}"><h1>{escape(title)}</h1>',
    ]
    return "\n".join([*head, *parts, "</html>"]) + "\n"
