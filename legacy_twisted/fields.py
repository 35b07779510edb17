"""
Input, checked strictly: what isn't exactly right is refused by its name.
"""

import json
import math
import re
import uuid
from urllib.parse import unquote_to_bytes

from twisted.web import http

from legacy_twisted.bodies import mediaType
from legacy_twisted.web import Refusal, notFound

DEPTH = 100
EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
INTEGER = re.compile(r"-?[0-9]{1,18}")
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
CONTROL_LINE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Fields:
    """
    Named values of one origin: a JSON body, a query, or path segments.
    """

    def __init__(self, code, values):
        self.code = code
        self.values = values

    def refuse(self, name, what):
        return Refusal(http.BAD_REQUEST, self.code, f"{name}: {what}")

    def given(self, name):
        """
        The value, as it came.
        """
        try:
            return self.values[name]
        except KeyError:
            raise self.refuse(name, "missing") from None

    def string(self, name):
        value = self.given(name)
        if not isinstance(value, str):
            raise self.refuse(name, "must be a string")
        return value

    def text(self, name, limit):
        """
        A text of 1 to C{limit} characters; tabs and line ends may be in it.
        """
        return self._text(name, limit, CONTROL)

    def line(self, name, limit):
        """
        A text of one line.
        """
        return self._text(name, limit, CONTROL_LINE)

    def _text(self, name, limit, control):
        value = self.string(name)
        if not 1 <= len(value) <= limit:
            raise self.refuse(name, f"must have 1 to {limit} characters")
        if control.search(value):
            raise self.refuse(name, "must not contain control characters")
        return value

    def email(self, name):
        value = self.string(name)
        if len(value) > 254 or not EMAIL.fullmatch(value):
            raise self.refuse(name, "must be an e-mail address")
        return value

    def integer(self, name, low, high):
        value = self.given(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(name, "must be an integer")
        return self._between(name, value, low, high)

    def _between(self, name, value, low, high):
        if not low <= value <= high:
            raise self.refuse(name, f"must be between {low} and {high}")
        return value


class Parameters(Fields):
    """
    Values of the path or the query: bytes until they are asked for.
    """

    def __init__(self, values):
        Fields.__init__(self, "bad_parameter", values)

    def has(self, name):
        return name in self.values

    def string(self, name):
        try:
            return self.given(name).decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse(name, "must be UTF-8") from None

    def email(self, name):
        try:
            self.given(name).decode("ascii")
        except UnicodeDecodeError:
            raise self.refuse(name, "must be an e-mail address") from None
        return Fields.email(self, name)

    def integer(self, name, low, high):
        value = self.string(name)
        if not INTEGER.fullmatch(value):
            raise self.refuse(name, "must be an integer")
        return self._between(name, int(value), low, high)

    def choice(self, name, choices, remedy):
        value = self.string(name)
        if value not in choices:
            raise self.refuse(name, remedy)
        return value


def query(request):
    """
    The request's query.  Twisted's own C{args} leave out names without a
    value.
    """
    values = {}
    for item in request.uri.partition(b"?")[2].split(b"&"):
        if item:
            name, _, value = item.replace(b"+", b" ").partition(b"=")
            key = unquote_to_bytes(name).decode("utf-8", "replace")
            values[key] = unquote_to_bytes(value)
    return Parameters(values)


def segment(name, value):
    """
    A segment of the path, as the Site has decoded it.
    """
    return Parameters({name: value})


def identifier(value, what):
    """
    An id out of a path.

    @param value: bytes.
    """
    text = value.decode("latin-1")
    if not UUID.fullmatch(text):
        raise notFound(what)
    return text


def newId():
    return str(uuid.uuid4())


def body(request):
    """
    The request's JSON object, as L{Fields}.
    """
    return Fields("bad_field", jsonObject(request))


def jsonObject(request):
    if mediaType(request.requestHeaders) != b"application/json":
        raise badMediaType("the body must be application/json")
    content = received(request)
    return parseObject(content.read())


def badMediaType(message):
    return Refusal(http.UNSUPPORTED_MEDIA_TYPE, "bad_media_type", message)


def received(request):
    """
    The request's content, when it isn't compressed or too large.
    """
    encoding = request.getHeader(b"Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise badMediaType("compressed bodies are not accepted")
    content = request.content
    if content.tooLarge:
        raise Refusal(
            http.REQUEST_ENTITY_TOO_LARGE,
            "too_large",
            f"the body is larger than {content.limit} bytes",
        )
    return content


def parseObject(data):
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=refuseConstant, parse_float=finite
        )
    except (ValueError, RecursionError):
        value = None
        valid = False
    else:
        valid = not tooDeep(value)
    if not valid:
        raise Refusal(http.BAD_REQUEST, "bad_json", "the body is not valid JSON")
    if not isinstance(value, dict):
        raise Refusal(http.BAD_REQUEST, "bad_json", "the body must be a JSON object")
    return value


def refuseConstant(text):
    raise ValueError(text)


def finite(text):
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def tooDeep(value):
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
