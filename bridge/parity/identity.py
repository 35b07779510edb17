"""
Owns the identity of the code that evidence belongs to: a declared version, or a
digest over a package's sources.  When either side's changes, or what counts as the
same, the evidence is void.

Refuses: to read files; their names and contents arrive as arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from bridge.parity.rules import Rules


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """
    The digest of a package: each file's name and contents, in any order.
    """
    total = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files):
        total.update(len(name.encode()).to_bytes(4, "big") + name.encode())
        total.update(hashlib.blake2b(content, digest_size=16).digest())
    return total.hexdigest()


def identity_of(legacy: str, modern: str, rules: Rules, agreed: Iterable[str] = ()) -> str:
    """
    What evidence for one route is evidence of, as one word.

    @param legacy: Legacy's version or digest; C{modern} the same.
    @param agreed: Accepted rules: what they leave out was not left out before.
    """
    text = "\n".join(
        [
            legacy,
            modern,
            repr(rules.ignore),
            repr(sorted(rules.tolerate.items())),
            repr((rules.strict, rules.moments)),
            repr(sorted(agreed)),
        ]
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
