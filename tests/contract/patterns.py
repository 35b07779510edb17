"""
The text of the contract's cases: what stands in angle brackets, and how an answer is compared with it.

``<fill:TEXT:N>`` stands for TEXT, N times; ``<lt>`` for the character itself; ``<NAME>`` for what an earlier answer of
the same case captured; ``<KIND>`` for anything of that kind, and ``<KIND:NAME>`` captures it too. A name that nothing
captures is refused, so that a slip of the pen can't become a literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping, Set

KINDS = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "time": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
    "date": r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
    "day": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "int": r"-?(?:0|[1-9][0-9]*)",
    "float": r"-?(?:0|[1-9][0-9]*)\.[0-9]+",
    "hex": r"[0-9a-f]+",
    "any": r"[\s\S]+",
    "owner": r'(?:"legacy"|"modern"|null)',
    "state": r"(?:running|stopped)",
    "age": r"(?:[0-9]+\.[0-9]|null)",
    "cookie": r"[^;]+",
}

_TOKEN = re.compile(r"<(?:fill:(?P<unit>[\s\S]+?):(?P<times>[0-9]+)|(?P<word>[a-z_]+)(?::(?P<name>[a-z_]+))?)>")

Captured = MutableMapping[str, str]


class CaseError(ValueError):
    """
    The case itself is wrong; nothing can be said about the server.
    """


def names(text: str) -> Iterator[tuple[str, str]]:
    """
    Each name in `text`, as ("captures", NAME) or ("uses", NAME), in order.
    """
    for token in _TOKEN.finditer(text):
        word, name = token["word"], token["name"]
        if word is None or word == "lt":
            continue
        if word in KINDS:
            if name in KINDS or name == "lt":
                raise CaseError(f"{token[0]}: a kind cannot be a name")
            if name is not None:
                yield "captures", name
        elif name is not None:
            raise CaseError(f"{token[0]}: there is no kind {word!r}")
        else:
            yield "uses", word


def check_names(text: str, known: Set[str]) -> set[str]:
    """
    The names that are known after `text`; CaseError where it uses one that is not known by then.
    """
    found = set(known)
    for what, name in names(text):
        if what == "captures":
            found.add(name)
        elif name not in found:
            raise CaseError(f"<{name}> was never captured, in {text[:80]!r}")
    return found


def has_kinds(text: str) -> bool:
    return any(token["word"] in KINDS for token in _TOKEN.finditer(text))


def expand(text: str, captured: Captured) -> str:
    """
    `text` with everything put in; CaseError where it holds a kind, which stands for no single text.
    """

    def one(token: re.Match[str]) -> str:
        if token["unit"] is not None:
            return token["unit"] * int(token["times"])
        if token["word"] == "lt":
            return "<"
        if token["word"] in KINDS:
            raise CaseError(f"{token[0]} cannot be sent")
        if token["word"] not in captured:
            raise CaseError(f"<{token['word']}> was never captured")
        return captured[token["word"]]

    return _TOKEN.sub(one, text)


def matches(pattern: str, actual: str, captured: Captured) -> bool:
    """
    True where `actual` is wholly what `pattern` says; what it captures goes into `captured` then.
    """
    if not has_kinds(pattern):
        return expand(pattern, captured) == actual
    parts: list[str] = []
    fresh: set[str] = set()
    end = 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        end = token.end()
        word, name = token["word"], token["name"]
        if word not in KINDS:
            parts.append(re.escape(expand(token[0], captured)))
        elif name is None:
            parts.append(KINDS[word])
        elif name in captured:
            parts.append(re.escape(captured[name]))
        elif name in fresh:
            parts.append(f"(?P={name})")
        else:
            fresh.add(name)
            parts.append(f"(?P<{name}>{KINDS[word]})")
    parts.append(re.escape(pattern[end:]))
    found = re.fullmatch("".join(parts), actual)
    if found is None:
        return False
    captured.update(found.groupdict())
    return True
