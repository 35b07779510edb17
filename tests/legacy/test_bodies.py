"""
Bodies that arrive: limits hold while they do, and nothing is left when the client goes.
"""

from __future__ import annotations

import os
import tracemalloc

import pytest
from twisted.web.http_headers import Headers

from legacy_twisted.bodies import JSON_LIMIT, JsonBody, UploadBody, mediaType
from legacy_twisted.multipart import Malformed

HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n'
TAIL = b"\r\n--B--\r\n"


@pytest.fixture
def headers():
    return Headers({b"Content-Type": [b"Multipart/Form-Data; boundary=B"]})


@pytest.fixture
def upload(jobs, headers):
    body = UploadBody(jobs.settings, headers)
    yield body
    body.close()


def left(jobs):
    return os.listdir(jobs.settings.path("uploads"))


@pytest.mark.parametrize("arrived", range(0, len(HEAD + b"data" * 10 + TAIL), 9))
def test_a_client_that_goes_leaves_nothing(jobs, upload, arrived):
    """
    Wherever the connection ends: Twisted closes the request's content then, and the file goes with it.
    """
    upload.write((HEAD + b"data" * 10 + TAIL)[:arrived])

    upload.close()

    assert [] == left(jobs)
    assert upload._file is None


def test_on_disk_while_it_arrives(jobs, upload):
    """
    A part is in its file before the rest is there, and memory doesn't grow with it.
    """
    upload.write(HEAD)
    tracemalloc.start()
    for _ in range(64):
        upload.write(bytes(65536))
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert 1 == len(left(jobs))
    assert 64 * 65536 - upload.size < 65536
    assert grown < 1_000_000


def test_too_large_is_thrown_away(jobs, headers):
    """
    Past the limit nothing is kept, neither in memory nor on disk, and the parser isn't fed.
    """
    object.__setattr__(jobs.settings, "upload_limit", 1000)
    body = UploadBody(jobs.settings, headers)

    body.write(HEAD)
    for _ in range(100):
        body.write(bytes(1000))

    assert body.tooLarge
    assert [] == left(jobs)
    body.close()


def test_known_beforehand(jobs, headers):
    """
    What Content-Length says is too large never touches the disk.
    """
    body = UploadBody(jobs.settings, headers, length=jobs.settings.upload_limit + 1)

    body.write(HEAD + b"data")

    assert body.tooLarge
    assert [] == left(jobs)


def test_exactly_the_limit(jobs, headers):
    """
    The limit itself is fine; one byte more isn't.
    """
    whole = HEAD + b"data" + TAIL
    object.__setattr__(jobs.settings, "upload_limit", len(whole))
    fits, exceeds = UploadBody(jobs.settings, headers), UploadBody(jobs.settings, headers)

    fits.write(whole)
    exceeds.write(whole + b"x")

    assert (False, True) == (fits.tooLarge, exceeds.tooLarge)
    fits.complete()
    fits.close()


def test_of_several_the_last(jobs, upload):
    """
    Of two parts of that name the last one stays, and one file.
    """
    upload.write(HEAD + b"first" + b"\r\n" + HEAD.replace(b"f.txt", b"g.txt") + b"second" + TAIL)
    upload.complete()

    upload.keep(jobs.settings.path("uploads", "kept"))
    upload.close()

    assert ("g.txt", 6, ["kept"]) == (upload.filename, upload.size, left(jobs))
    with open(jobs.settings.path("uploads", "kept"), "rb") as file:
        assert b"second" == file.read()


def test_malformed_is_remembered(jobs, upload):
    """
    Nonsense is found as it comes, nothing of it stays, and the page hears of it in the end.
    """
    upload.write(HEAD + b"data" + b"\r\n--Bnonsense")
    upload.write(b"more")

    assert [] == left(jobs)
    with pytest.raises(Malformed):
        upload.complete()


def test_the_clients_name_is_no_path(jobs, upload):
    """
    The article saved an upload under the name that the client gave; here it never touches the disk.
    """
    upload.write(HEAD.replace(b"f.txt", b"../../escaped") + b"data")

    assert all(name.endswith(".part") and "escaped" not in name for name in left(jobs))


def test_json_bodies():
    """
    Up to the limit in memory; past it nothing is kept.
    """
    fits, exceeds = JsonBody(), JsonBody()

    fits.write(bytes(JSON_LIMIT))
    for _ in range(3):
        exceeds.write(bytes(JSON_LIMIT // 2 + 1))

    assert (False, JSON_LIMIT) == (fits.tooLarge, len(fits.getvalue()))
    assert (True, 0) == (exceeds.tooLarge, len(exceeds.getvalue()))
    assert JsonBody(JSON_LIMIT + 1).tooLarge


def test_media_types():
    """
    Compared without parameters and case; a missing one is none.
    """
    assert b"application/json" == mediaType(Headers({b"Content-Type": [b" Application/JSON ; charset=utf-8"]}))
    assert b"" == mediaType(Headers())
