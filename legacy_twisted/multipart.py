"""
multipart/form-data, parsed while it arrives, in constant memory.

The parser keeps back no more than one boundary's length of data; it calls
C{begin(name, filename)}, C{data(bytes)} and C{end()} for each part.
"""

import re

HEADERS = 16384  # bytes of headers that one part may have
PARAMETER = re.compile(rb';\s*([^\s=;]+)\s*=\s*("(?:\\"|[^"])*"|[^\s;]*)')


class Malformed(Exception):
    """
    This isn't multipart/form-data.
    """


def parameters(value):
    """
    The parameters of a header's value, by their lower-case names.
    """
    found = {}
    for name, text in PARAMETER.findall(value):
        if text.startswith(b'"'):
            text = text[1:-1].replace(b'\\"', b'"')
        found.setdefault(name.lower(), text)
    return found


def boundary(contentType):
    """
    @raise Malformed: when there is none.
    """
    found = parameters(contentType or b"").get(b"boundary", b"")
    if not 1 <= len(found) <= 200:
        raise Malformed("no boundary")
    return found


class MultipartParser:
    """
    Fed with C{feed}, and asked with C{close} whether that was all.
    """

    def __init__(self, boundary, receiver):
        self._receiver = receiver
        self._delimiter = b"\r\n--" + boundary
        # The first boundary may stand at the very beginning.
        self._buffer = b"\r\n"
        self._state = self._preamble

    def feed(self, data):
        """
        @raise Malformed: at nonsense.
        """
        self._buffer += data
        while self._state():
            pass

    def close(self):
        """
        @raise Malformed: when the last boundary is missing.
        """
        if self._state != self._epilogue:
            raise Malformed("truncated")

    def _preamble(self):
        while self._buffer.startswith(b"\r\n\r\n"):
            self._buffer = self._buffer[2:]
        if len(self._buffer) < len(self._delimiter):
            if not self._delimiter.startswith(self._buffer) and self._buffer.strip(b"\r\n"):
                raise Malformed("no boundary first")
            return False
        if not self._buffer.startswith(self._delimiter):
            raise Malformed("no boundary first")
        self._buffer = self._buffer[len(self._delimiter) :]
        self._state = self._afterBoundary
        return True

    def _afterBoundary(self):
        if self._buffer.startswith(b"--"):
            self._state = self._epilogue
            return True
        rest = self._buffer.lstrip(b" \t")
        if len(rest) < 2:
            return False
        if not rest.startswith(b"\r\n"):
            raise Malformed("text after a boundary")
        self._buffer = rest
        self._state = self._headers
        return True

    def _headers(self):
        # The line end that ended the boundary is still there: a part
        # without any header is nothing but the empty line.
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEADERS:
                raise Malformed("endless headers")
            return False
        if end > HEADERS:
            raise Malformed("endless headers")
        lines = self._buffer[2:end].split(b"\r\n") if end else []
        # The data's first line may be the next boundary.
        self._buffer = self._buffer[end + 2 :]
        self._receiver.begin(*nameOf(lines))
        self._started = False
        self._state = self._data
        return True

    def _data(self):
        if not self._started:
            if self._buffer.startswith(self._delimiter):
                self._finish(0)
                return True
            if len(self._buffer) < len(self._delimiter) and self._delimiter.startswith(
                self._buffer
            ):
                return False
            self._buffer = self._buffer[2:]
            self._started = True
        end = self._buffer.find(self._delimiter)
        if end >= 0:
            self._receiver.data(self._buffer[:end])
            self._finish(end)
            return True
        keep = len(self._delimiter) - 1
        if len(self._buffer) > keep:
            self._receiver.data(self._buffer[:-keep])
            self._buffer = self._buffer[-keep:]
        return False

    def _finish(self, end):
        self._receiver.end()
        self._buffer = self._buffer[end + len(self._delimiter) :]
        self._state = self._afterBoundary

    def _epilogue(self):
        self._buffer = b""
        return False


def nameOf(lines):
    """
    @return: a part's name and its filename, which may be L{None}.
    """
    for line in lines:
        header, colon, value = line.partition(b":")
        if colon and header.strip().lower() == b"content-disposition":
            kind = value.partition(b";")[0].strip().lower()
            found = parameters(b";" + value.partition(b";")[2])
            if kind == b"form-data" and b"name" in found:
                filename = found.get(b"filename")
                if filename is not None:
                    filename = filename.decode("utf-8", "replace")
                return found[b"name"].decode("utf-8", "replace"), filename
    raise Malformed("a part without a name")
