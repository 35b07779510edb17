"""
Owns what a route's match text means: methods, segments, parameters.

A path is split at its raw slashes, and then each segment is decoded once, so that
C{%2F} is a character inside a segment and C{%2541} is C{%41}.  A parameter takes
one segment that isn't empty; C{{rest:path}} takes all the rest, at least one
segment, which may be empty.  A trailing slash is another path.

Refuses: query strings, hosts and regular expressions.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

import attrs

from bridge.errors import PatternError

_METHOD = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*\Z")
_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}\Z")
# What RFC 3986 lets stand unescaped inside a segment, beyond letters and digits.
_SAFE = "-._~!$&'()*+,;=:@"


@attrs.frozen
class Literal:
    """
    A segment that must be exactly this, decoded.
    """

    value: bytes


@attrs.frozen
class Parameter:
    """
    A segment that may be anything but empty.
    """

    name: str


@attrs.frozen
class Rest:
    """
    All segments from here on, at least one.
    """

    name: str


Segment = Literal | Parameter | Rest


def split(raw_path: bytes) -> list[bytes]:
    """
    The decoded segments of a raw path that starts with a slash.
    """
    segments = raw_path.split(b"/")
    del segments[0]
    # `b"%" in` costs half of this: it raises and catches an error, since it looks for a number first.
    if raw_path.find(b"%") >= 0:
        return [unquote_to_bytes(segment) for segment in segments]
    return segments


@attrs.frozen
class Pattern:
    """
    The requests that one route is about.

    @ivar text: The normalised text, which is the route's name everywhere.
    @ivar methods: Upper-case, sorted; HEAD is left out where GET stands.
    """

    text: str
    methods: tuple[bytes, ...]
    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """
        Read C{METHOD[,METHOD] /path/{segment}/{rest:path}}.

        @raise PatternError: If that isn't what it says.
        """
        words = text.split()
        if len(words) != 2:
            raise PatternError(text, "it wants methods, one space and a path")
        methods = _methods(text, words[0])
        if not words[1].startswith("/"):
            raise PatternError(text, "the path must start with a slash")
        if "?" in words[1] or "#" in words[1]:
            raise PatternError(text, "a path has no query string and no fragment")
        segments = _segments(text, words[1])
        name = ",".join(m.decode("ascii") for m in methods) + " " + _path(segments)
        return cls(name, methods, segments)

    @property
    def reads(self) -> bool:
        """
        Whether every method is one that changes nothing by definition.
        """
        return all(method in (b"GET", b"HEAD") for method in self.methods)

    @property
    def parameters(self) -> tuple[str, ...]:
        """
        The names of the parameters, in their order.
        """
        return tuple(s.name for s in self.segments if not isinstance(s, Literal))

    def place(self, name: str) -> int:
        """
        Which segment a parameter stands in, counted from 0.

        @raise KeyError: If there is no such parameter.
        """
        for place, segment in enumerate(self.segments):
            if not isinstance(segment, Literal) and segment.name == name:
                return place
        raise KeyError(name)

    def value(self, raw_path: bytes, name: str) -> bytes:
        """
        What a parameter holds in a path that this pattern matches, decoded.

        @raise KeyError: If there is no such parameter.
        """
        return self.value_at(raw_path, self.place(name))

    def value_at(self, raw_path: bytes, place: int) -> bytes:
        """
        The same, where it is known in which segment it stands.
        """
        segments = split(raw_path)
        if isinstance(self.segments[place], Rest):
            return b"/".join(segments[place:])
        return segments[place]

    def matches(self, method: bytes, raw_path: bytes) -> bool:
        """
        Whether this pattern alone is about a request: the plain definition, which
        the table must agree with.
        """
        if method not in self.methods and not (method == b"HEAD" and b"GET" in self.methods):
            return False
        if not raw_path.startswith(b"/"):
            return False
        found = split(raw_path)
        for place, segment in enumerate(self.segments):
            if place >= len(found):
                return False
            if isinstance(segment, Rest):
                return True
            if isinstance(segment, Literal):
                if found[place] != segment.value:
                    return False
            elif not found[place]:
                return False
        return len(found) == len(self.segments)


def _methods(text: str, words: str) -> tuple[bytes, ...]:
    found = set()
    for word in words.split(","):
        if not _METHOD.match(word):
            raise PatternError(text, f"{word!r} is no HTTP method")
        found.add(word.upper().encode("ascii"))
    if b"GET" in found:
        found.discard(b"HEAD")
    return tuple(sorted(found))


def _segments(text: str, path: str) -> tuple[Segment, ...]:
    made: list[Segment] = []
    names: set[str] = set()
    for part in path[1:].split("/"):
        if made and isinstance(made[-1], Rest):
            raise PatternError(text, f"nothing may follow {{{made[-1].name}:path}}")
        if "{" not in part and "}" not in part:
            made.append(Literal(unquote_to_bytes(part)))
            continue
        found = _PARAMETER.match(part)
        if found is None:
            raise PatternError(text, f"{part!r} mixes text and a parameter")
        name, kind = found.groups()
        if not name.isidentifier():
            raise PatternError(text, f"{name!r} can't name a parameter")
        if name in names:
            raise PatternError(text, f"two parameters are called {name!r}")
        names.add(name)
        if kind is None:
            made.append(Parameter(name))
        elif kind == "path":
            made.append(Rest(name))
        else:
            raise PatternError(text, f"{kind!r} is no kind of parameter; path is")
    return tuple(made)


def _path(segments: tuple[Segment, ...]) -> str:
    parts = []
    for segment in segments:
        if isinstance(segment, Literal):
            parts.append(quote_from_bytes(segment.value, safe=_SAFE))
        elif isinstance(segment, Parameter):
            parts.append(f"{{{segment.name}}}")
        else:
            parts.append(f"{{{segment.name}:path}}")
    return "/" + "/".join(parts)
