"""
The multipart parser: the same parts however the bytes are cut, and no more memory than a boundary.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_twisted.multipart import Malformed, MultipartParser, boundary, nameOf, parameters


class Parts:
    def __init__(self) -> None:
        self.parts: list[list[object]] = []
        self.largest = 0

    def begin(self, name, filename):
        self.parts.append([name, filename, b""])

    def data(self, data):
        self.largest = max(self.largest, len(data))
        self.parts[-1][2] += data

    def end(self):
        self.parts[-1].append("end")


def body(*parts: tuple[str, bytes]) -> bytes:
    head = b"--B\r\nContent-Disposition: form-data; "
    return b"".join(head + d.encode() + b"\r\n\r\n" + data + b"\r\n" for d, data in parts) + b"--B--\r\n"


def parse(data: bytes, cuts: list[int] = ()) -> list[list[object]]:
    parts = Parts()
    parser = MultipartParser(b"B", parts)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        parser.feed(data[start:end])
    parser.close()
    return parts.parts


@given(
    st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\r\n--B", b"")), max_size=4),
    st.lists(st.integers(min_value=0), max_size=12),
)
def test_cuts_do_not_matter(contents, cuts):
    """
    What was sent comes out, wherever the network cut it, boundary included.
    """
    parts = [('name="file"; filename="f"', content) for content in contents]
    if any(b"\r\n--B" in b"\r\n" + content + b"\r\n" for content in contents):
        return

    assert [["file", "f", content, "end"] for content in contents] == parse(body(*parts), cuts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"nonsense",
        b"--X\r\n\r\n--X--",
        b"--B\r\nContent-Disposition: form-data; name=file\r\n\r\ndata",
        b"--B\r\nContent-Disposition: form-data; name=file\r\n\r\ndata\r\n--B",
        b"--B\r\nContent-Disposition: form-data\r\n\r\ndata\r\n--B--",
        b"--B\r\n\r\ndata\r\n--B--",
        b"--Bx\r\nContent-Disposition: form-data; name=file\r\n\r\n\r\n--B--",
        b"--B\r\nX: " + b"y" * 20000,
    ],
)
def test_malformed(data):
    """
    Truncated, unnamed or endless: refused, never guessed at.
    """
    with pytest.raises(Malformed):
        parse(data)


def test_little_is_kept_back():
    """
    A megabyte goes out as it came in; the parser keeps less than a boundary.
    """
    parts = Parts()
    parser = MultipartParser(b"B", parts)
    parser.feed(b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n')

    for _ in range(100):
        parser.feed(b"\r" * 10000)

    assert len(parser._buffer) < len(b"\r\n--B")
    assert 100 * 10000 - len(parts.parts[0][2]) < len(b"\r\n--B")


def test_parameters():
    """
    Quoted or not; an escaped quote is a quote, other backslashes stay; the first of a name counts.
    """
    expected = {b"name": b"file", b"filename": b'C:\\a"b.txt'}

    assert expected == parameters(b'; name=file; FileName="C:\\a\\"b.txt"; name=other')


def test_filename_that_is_no_text():
    """
    Bytes that are no UTF-8 are shown as U+FFFD; `filename*` is no file name.
    """
    named = nameOf([b"Content-Disposition: form-data; name=file; filename=\"\xff\""])

    assert ("file", "\ufffd") == named
    assert ("file", None) == nameOf([b"Content-Disposition: form-data; name=file; filename*=UTF-8''x"])


def test_boundary_must_be_there():
    """
    Without a boundary there is nothing to parse by.
    """
    assert b"x y" == boundary(b'multipart/form-data; charset=utf-8; boundary="x y"')
    with pytest.raises(Malformed):
        boundary(b"multipart/form-data")
