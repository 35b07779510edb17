"""
Owns the map of ids between two runs of one request: what one run calls a task, a
user or a file, and what the other calls the same.

Only what looks like an id is mapped: a UUID or a ULID, a long hexadecimal word, and
a number under a key that says C{id}.  The map is one to one: an id that stands for
two is a difference.

Refuses: to map anything that a person would read.
"""

from __future__ import annotations

import re

import attrs

ID = re.compile(
    r"(?<![0-9A-Za-z])(?:"
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|[0-9A-HJKMNP-TV-Z]{26}"
    r"|(?=[0-9a-f]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{16,64}"
    r")(?![0-9A-Za-z])"
)
_KEY = re.compile(r"(?:\A|[._\[])(?:id|ids|key|seq)(?:\[\d+\])*\Z|[a-z]Ids?(?:\[\d+\])*\Z")


def names_id(path: str) -> bool:
    """
    Whether a number at that path is an id: C{$.id}, C{$.user_id}, C{$.ids[3]}.
    """
    return _KEY.search(path) is not None


@attrs.define
class IdMap:
    """
    Which id of the right run each of the left one stands for.
    """

    forward: dict[str, str] = attrs.field(factory=dict)
    backward: dict[str, str] = attrs.field(factory=dict)

    def pairs(self, left: str, right: str) -> bool:
        """
        Whether these may be the same; remembered if so.
        """
        known = self.forward.get(left)
        if known is not None or right in self.backward:
            return known == right
        self.forward[left] = right
        self.backward[right] = left
        return True

    def same_text(self, left: str, right: str) -> bool:
        """
        Whether two texts differ in their ids alone, and these are each other's.
        """
        if left == right:
            # Equal ids are mapped as well: nothing else may stand for them later.
            return all(self.pairs(found, found) for found in ID.findall(left))
        lefts, rights = ID.findall(left), ID.findall(right)
        if not lefts or len(lefts) != len(rights) or ID.sub("\0", left) != ID.sub("\0", right):
            return False
        return all(map(self.pairs, lefts, rights))

    def same_number(self, left: int, right: int, path: str) -> bool:
        """
        The same for numbers, under a key that says id.
        """
        return names_id(path) and self.pairs(f"{path}={left}", f"{path}={right}")

    def rewrite(self, text: str) -> str:
        """
        A text of the left run with the right one's ids.
        """
        return ID.sub(lambda found: self.forward.get(found.group(), found.group()), text)
