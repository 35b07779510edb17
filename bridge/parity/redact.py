"""
Owns what may be stored of a request: secrets are replaced by keyed tokens, so that
two equal ones are still seen to be equal, and nobody can read either.

A value is a secret by its name (a key, parameter, header or cookie called so) or by
its look (tokens, keys, cards, words that nobody would choose).  Of headers only those
known to be harmless are shown; of cookies none; of binary bodies nothing.

Refuses: to keep the map from tokens to values, and to work without a key.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, quote, quote_from_bytes, unquote_to_bytes, urlencode

import attrs

from bridge.parity.differences import Difference
from bridge.parity.documents import Members, NotJSON, parse, plain
from bridge.parity.ids import ID
from bridge.parity.observe import Headers

SECRET_WORDS = frozenset(
    (
        "access",
        "apikey",
        "auth",
        "authorization",
        "bearer",
        "card",
        "cookie",
        "credential",
        "credentials",
        "csrf",
        "cvc",
        "cvv",
        "hash",
        "iban",
        "jwt",
        "key",
        "nonce",
        "otp",
        "pass",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "pin",
        "private",
        "pwd",
        "salt",
        "secret",
        "secrets",
        "session",
        "sessionid",
        "sid",
        "sig",
        "signature",
        "ssn",
        "token",
        "tokens",
        "xsrf",
    )
)
PLAIN_HEADERS = frozenset(
    (
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "cache-control",
        "connection",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "last-event-id",
        "last-modified",
        "location",
        "origin",
        "pragma",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
    )
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LOOKS = re.compile(
    r"-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|\Z)"
    r"|\beyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?"
    r"|(?i:\b(?:bearer|basic|digest)\s+)[\w.~+/=-]{6,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|\b(?:sk|pk|rk|gh[opsu]|github_pat|xox[a-z]|glpat|npm|pypi|hf|whsec)[-_][\w-]{8,}"
    r"|\b(?:AKIA|ASIA|AIza|SG\.)[\w.-]{8,}"
)
_NAMED = re.compile(r"""(["']?)([\w.-]{2,64})\1\s*[:=]\s*("(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s,;&"'}\]]+)""")
_WORD = re.compile(r"[A-Za-z0-9+/_~.=-]{10,}")
_CARD = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-][\d:]+)?\Z")


def names_secret(name: str) -> bool:
    """
    Whether something of that name is a secret whatever it looks like.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    return not SECRET_WORDS.isdisjoint(words) or "".join(words) in SECRET_WORDS


def looks_secret(word: str) -> bool:
    """
    Whether a word looks as nobody would write it: long, or of mixed classes, and
    without repetition.  UUIDs and times are names of things, not secrets.
    """
    if (ID.fullmatch(word) and "-" in word) or _DATE.match(word):
        return False
    digits = sum(c.isdigit() for c in word)
    letters = sum(c.isalpha() for c in word)
    if not digits or not letters:
        # Letters alone: only what has no words in it.
        return len(word) >= 24 and letters == len(word) and _turns(word) >= len(word) // 3
    if len(word) >= 20 and not ("/" in word or "." in word) and _bits(word) > 3.0:
        return True
    return _turns(word) >= 4 and any(c.isupper() for c in word) and any(c.islower() for c in word)


def _turns(word: str) -> int:
    kinds = [0 if c.isdigit() else 1 if c.islower() else 2 if c.isupper() else 3 for c in word]
    return sum(1 for a, b in itertools.pairwise(kinds) if a != b and 3 not in (a, b))


def _bits(word: str) -> float:
    counts = Counter(word)
    return -sum(n / len(word) * math.log2(n / len(word)) for n in counts.values())


@attrs.frozen
class Redactor:
    """
    Replaces secrets.

    @ivar key: At least 16 bytes, kept where the evidence isn't.
    @ivar names: Further names whose values are secrets.
    """

    key: bytes = attrs.field(repr=False, validator=attrs.validators.min_len(16))
    names: frozenset[str] = frozenset()

    def token(self, value: str | bytes) -> str:
        """
        What stands for a secret: the same for the same one.
        """
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        found = hashlib.blake2b(data, digest_size=8, key=self.key[:64]).hexdigest()
        return f"<secret {found[:4]}-{found[4:12]}>"

    def is_secret(self, name: str) -> bool:
        """
        Whether a value of that name is never shown.
        """
        return name.lower() in self.names or names_secret(name)

    def text(self, text: str) -> str:
        """
        A text without what looks like a secret.
        """
        text = _LOOKS.sub(lambda m: self.token(m.group()), text)
        text = _CARD.sub(lambda m: self.token(m.group()) if _luhn(m.group()) else m.group(), text)
        text = _NAMED.sub(self._named, text)
        return _WORD.sub(self._word, text)

    def _word(self, found: re.Match[str]) -> str:
        word = found.group()
        if looks_secret(word):
            return self.token(word)
        # The parts of a path, a domain or an assignment are words of their own.
        return re.sub(r"[^/.=]{10,}", lambda m: self.token(m.group()) if looks_secret(m.group()) else m.group(), word)

    def _named(self, found: re.Match[str]) -> str:
        value = found.group(3)
        if not self.is_secret(found.group(2)) or value.startswith("<secret"):
            return found.group()
        start = found.start(3) - found.start()
        quote_ = value[0] if value[0] in "\"'" else ""
        return found.group()[:start] + quote_ + self.token(value.strip("\"'")) + quote_

    def value(self, name: str, value: Any) -> Any:
        """
        A value under a name, at any depth.
        """
        if self.is_secret(name) and value is not None and not isinstance(value, bool):
            return self.token(value if isinstance(value, str) else json.dumps(plain(value)))
        return self.document(value)

    def document(self, value: Any) -> Any:
        """
        A JSON document; its keys are texts too.
        """
        if isinstance(value, Members):
            return {self.text(key): self.value(key, each) for key, each in value.pairs}
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(str(key), each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.document(each) for each in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int) and not isinstance(value, bool) and _luhn(str(value)):
            return self.token(str(value))
        return value

    def headers(self, headers: Headers) -> list[list[str]]:
        """
        Headers as pairs of texts.
        """
        return [
            [name.decode("latin-1").lower(), self.header(name.decode("latin-1"), value.decode("latin-1"))]
            for name, value in headers
        ]

    def header(self, name: str, value: str) -> str:
        """
        One header's value.
        """
        name = name.lower()
        if name == "cookie":
            return "; ".join(self._cookie(part) for part in value.split(";"))
        if name == "set-cookie":
            first, semicolon, attributes = value.partition(";")
            return self._cookie(first) + semicolon + attributes
        if name not in PLAIN_HEADERS:
            return self.token(value)
        return self.text(value)

    def _cookie(self, text: str) -> str:
        name, _, value = text.strip().partition("=")
        return f"{name}={self.token(value)}"

    def query(self, query: bytes) -> str:
        """
        A query string.
        """
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        return urlencode([(self.text(n), self.value(n, v)) for n, v in pairs], quote_via=quote, safe="<> ")

    def path(self, raw: bytes, secrets: Iterable[bytes] = ()) -> str:
        """
        A raw path.

        @param secrets: Decoded segments that are secrets by their parameters' names.
        """
        hidden = set(secrets)
        parts = []
        for part in raw.split(b"/"):
            segment = unquote_to_bytes(part)
            text = segment.decode("utf-8", "replace")
            shown = self.token(segment) if segment in hidden else self.text(text)
            parts.append(shown if shown != text else quote_from_bytes(segment, safe="~!$&'()*+,;=:@"))
        return "/".join(parts)

    def body(self, body: bytes, content_type: str) -> str:
        """
        A body as text; its size and a keyed digest where it is no text.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if not body:
            return ""
        if kind == "application/x-www-form-urlencoded":
            return self.query(body)
        try:
            return json.dumps(self.document(parse(body)), ensure_ascii=False)
        except (NotJSON, RecursionError):
            pass
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text or kind.startswith("multipart/"):
            return f"{len(body)} bytes, {self.token(body)}"
        return self.text(text)

    def difference(self, difference: Difference) -> Difference:
        """
        A difference whose sides may be stored; its fingerprint is asked before.
        """
        name = re.split(r"[.\[\]:]", re.sub(r"\[\d+\]", "", difference.path).rstrip("]"))[-1].strip('"')
        cookie = difference.path.startswith("header:set-cookie[") and difference.path.endswith("]")
        hidden = cookie or self.is_secret(name)
        if difference.path.startswith("header:") and not cookie:
            header = difference.path.removeprefix("header:").partition("[")[0].partition(".")[0]
            hidden = hidden or header not in PLAIN_HEADERS | {"set-cookie"}
        return attrs.evolve(
            difference,
            path=self.text(difference.path),
            left=self._side(difference.left, hidden),
            right=self._side(difference.right, hidden),
        )

    def _side(self, text: str, hidden: bool) -> str:
        if not text:
            return text
        try:
            value = parse(text.encode("utf-8", "surrogatepass"))
        except (NotJSON, RecursionError):
            return self.token(text) if hidden else self.text(text)
        if hidden:
            return self.token(value if isinstance(value, str) else text)
        return json.dumps(self.document(value), ensure_ascii=False)


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0
