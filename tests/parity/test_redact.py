"""
Nothing that is a secret is stored, and what was equal is still seen to be.
"""

from __future__ import annotations

import base64
import json
import random
import string

import pytest

from bridge.parity import Kind, Redactor, compare
from bridge.parity.observe import Effect
from bridge.parity.redact import names_secret
from bridge.parity.sample import MOST, Asked, curl, sample_of, tick_sample_of
from tests.parity.conftest import JSON, seen

KEY = b"k" * 32


@pytest.fixture
def redactor():
    return Redactor(KEY)


def planted(dice: random.Random) -> str:
    """
    A secret as real ones look.
    """
    letters = string.ascii_letters + string.digits

    def word(n, of=letters):
        return "".join(dice.choices(of, k=n))

    made = [
        lambda: "sk_live_" + word(24),
        lambda: "ghp_" + word(36),
        lambda: "AKIA" + word(16, string.ascii_uppercase + string.digits),
        lambda: "eyJhbGciOiJIUzI1NiJ9." + word(30) + "." + word(43),
        lambda: "Bearer " + word(32) + "1a",
        lambda: word(40, "0123456789abcdef") + "a1",
        lambda: base64.b64encode(dice.randbytes(32)).decode() + "a1B2",
        lambda: "xoxb-" + word(12, string.digits) + "-" + word(24),
        lambda: "4242 4242 4242 4242",
        lambda: "-----BEGIN PRIVATE KEY-----\n" + word(64) + "\n-----END PRIVATE KEY-----",
    ]
    return dice.choice(made)()


def hidden_in(secret: str, where: int) -> tuple[Asked, object]:
    """
    A request and an answer with a secret in one of their places.
    """
    headers = [(b"content-type", b"application/json"), (b"host", b"example.org")]
    query, path, body, answer, more = b"a=1", b"/a", b"{}", {"ok": 1}, list(JSON)
    data = secret.encode()
    quoted = data.replace(b" ", b"%20").replace(b"+", b"%2B").replace(b"\n", b"%0A").replace(b"/", b"%2F")
    flat = data.replace(b"\n", b"")
    places = [
        lambda: headers.append((b"authorization", flat)),
        lambda: headers.append((b"x-anything", flat)),
        lambda: headers.append((b"cookie", b"theme=dark; sid=" + flat)),
        lambda: more.append((b"set-cookie", b"sid=" + flat + b"; Path=/")),
        lambda: more.append((b"x-given", flat)),
    ]
    if where < len(places):
        places[where]()
    elif where == 5:
        query = b"q=" + quoted
    elif where == 6:
        body = json.dumps({"note": {"deep": [secret]}}).encode()
    elif where == 7:
        answer = {"note": f"use {secret} to log in"}
    elif where == 8:
        headers[0] = (b"content-type", b"application/x-www-form-urlencoded")
        body = b"note=" + quoted
    elif where == 9:
        headers[0] = (b"content-type", b"text/plain")
        body = b"the key is " + data
    elif where == 10:
        headers[0] = (b"content-type", b"multipart/form-data; boundary=x")
        body = b"--x\r\n\r\n" + data + b"\r\n--x--"
    elif where == 11:
        path = b"/reset/" + quoted
    elif where == 12:
        answer = {secret: 1}
    else:
        answer = {"password": secret[:7]}
    return Asked("POST", path, query, tuple(headers), body), (answer, more)


def test_a_thousand_planted_secrets(redactor):
    """
    In bodies, headers, cookies, paths and queries, of requests and answers: none is in
    what would be stored, and the fingerprints are what they were.
    """
    dice = random.Random(6)
    leaks = []
    for n in range(1000):
        secret = planted(dice)
        asked, (answer, headers) = hidden_in(secret, n % 14)
        legacy, modern = seen(answer, headers=headers), seen({"other": 1}, headers=JSON)
        found = compare(legacy, modern).differences

        text = sample_of(asked, legacy, modern, "legacy", found, redactor)

        bare = secret.removeprefix("Bearer ").split("\n")[1 if "\n" in secret else 0]
        shown = [json.dumps(text)[1:-1], text, text.replace("%20", " ").replace("%2B", "+").replace("%2F", "/")]
        if n % 14 == 13:
            bare = f'"{secret[:7]}"'
        if any(bare in each for each in shown):
            leaks.append((n % 14, secret))
        stored = {d["fingerprint"] for d in json.loads(text)["differences"]}
        assert {d.fingerprint for d in found} == stored

    assert [] == leaks


def test_equality_survives(redactor):
    """
    The same secret has the same token in every place, and another key another one.
    """
    body = json.loads(redactor.body(b'{"token":"abc","again":{"secret":"abc"},"password":"abd"}', "application/json"))

    assert body["token"] == body["again"]["secret"] == redactor.token("abc")
    assert body["token"] != body["password"]
    assert redactor.token("abc") != Redactor(b"x" * 32).token("abc")


def test_what_a_person_needs_to_read_stays(redactor):
    """
    Ids, times, words, numbers, statuses and addresses are no secrets.
    """
    document = {
        "id": "11111111-1111-4111-8111-111111111111",
        "created_at": "2026-11-21T20:00:00.000000Z",
        "message": "item 5 created: a very ordinary name",
        "file": "reports/2026/november.csv",
        "count": 1234567890,
        "ok": True,
        "none": None,
        "price": 9.99,
    }

    assert document == json.loads(redactor.body(json.dumps(document).encode(), "application/json"))
    assert "text/html; charset=utf-8" == redactor.header("Content-Type", "text/html; charset=utf-8")
    assert "/export/11111111-1111-4111-8111-111111111111" == redactor.path(
        b"/export/11111111-1111-4111-8111-111111111111"
    )
    assert "/caf%C3%A9/a%2Fb" == redactor.path(b"/caf%C3%A9/a%2Fb")


def test_names_that_say_secret():
    """
    A word of the name is enough, however it is written.
    """
    for name in ("password", "apiKey", "api_key", "X-Auth-Token", "userPasswd", "CSRF", "session_id"):
        assert names_secret(name)
    for name in ("author", "passenger", "task_id", "monkey", "description"):
        assert not names_secret(name)


def test_paths_by_their_parameters_names(redactor):
    """
    A segment whose parameter is called token is hidden even if it looks harmless.
    """
    assert f"/reset/{redactor.token('plain')}/now" == redactor.path(b"/reset/plain/now", [b"plain"])


def test_more_names_can_be_given():
    """
    What a house calls its secrets is its own matter.
    """
    assert Redactor(KEY, frozenset({"colour"})).value("colour", "red").startswith("<secret")


def test_texts_with_assignments(redactor):
    """
    A secret in a text that isn't JSON is found by its name.
    """
    text = redactor.text("password=hunter2; user=me, 'token': 'abc'")

    assert "hunter2" not in text and "abc" not in text
    assert "user=me" in text


def test_binary_bodies_are_not_shown(redactor):
    """
    Their size and a keyed digest are.
    """
    assert redactor.body(b"\xff\x00", "application/octet-stream").startswith("2 bytes, <secret")
    assert "" == redactor.body(b"", "text/plain")


def test_differences_of_secrets(redactor):
    """
    A difference shows that two secrets differ, not which they are.
    """
    left = seen({"token": "aa"}, headers=[*JSON, (b"set-cookie", b"sid=1"), (b"x-key", b"3")])
    right = seen({"token": "bb"}, headers=[*JSON, (b"set-cookie", b"sid=2"), (b"x-key", b"4")])

    shown = [redactor.difference(d) for d in compare(left, right).differences]

    assert 3 == len(shown)
    for each in shown:
        assert "<secret" in each.left and each.left != each.right


def test_differences_of_documents(redactor):
    """
    A whole subtree in a difference is redacted as a document, or as a text where it was
    shortened.
    """
    left = seen({"a": {"password": "hunter2", "x": "y" * 500}})

    [found] = compare(left, seen({"b": None})).differences[:1]

    assert Kind.MISSING is found.kind
    assert "hunter2" not in redactor.difference(found).left


def test_samples_have_a_size(redactor):
    """
    A sample too long is kept without its bodies.
    """
    words = {f"word{n}": "ü§" * 40 for n in range(2000)}
    asked = Asked("POST", b"/a", b"", tuple(JSON), json.dumps(words).encode())
    huge = tuple((b"accept", b"x" * 999) for _ in range(99))

    text = sample_of(asked, seen(words), seen(words), "legacy", [], redactor)
    nothing = sample_of(Asked("GET", b"/", b"", huge, b""), seen(), seen(), "legacy", [], redactor)

    assert len(text.encode()) <= MOST
    assert {"request": None} == json.loads(nothing)


def test_curl():
    """
    The command asks the same again, of the host that was asked, without what curl writes by itself.
    """
    request = {
        "method": "POST",
        "path": "/a b",
        "query": "x=1",
        "headers": [["host", "h"], ["accept", "a/b"]],
        "body": "it's",
    }

    command = curl(request)

    assert """curl -i -X POST 'http://h/a b?x=1' -H 'accept: a/b' --data-binary 'it'"'"'s'""" == command
    assert "--head" in curl({**request, "method": "HEAD", "body": "", "query": ""})
    assert "-X" not in curl({**request, "method": "GET"})


def test_objects_of_applications(redactor):
    """
    Effects may hold an application's own dicts and card numbers; other headers' secrets
    aren't shown either.
    """
    assert {"a": [1, "b"], "pin": redactor.token("7")} == redactor.document({"a": [1, "b"], "pin": 7})
    assert redactor.document(4242424242424242).startswith("<secret")
    assert 4242424242424241 == redactor.document(4242424242424241)
    assert "x=<secret" in redactor.header("set-cookie", "x=1; Path=/")
    assert "q=%FF" != redactor.query(b"q=%FF")


def test_letters_without_words_are_secrets(redactor):
    """
    Twenty-four letters in which case changes all the time say nothing to a person.
    """
    assert redactor.text("aBcDeFgHiJkLmNoPqRsTuVwXyZ").startswith("<secret")
    assert "internationalisationally" == redactor.text("internationalisationally")


def test_a_loops_tick_is_redacted_and_bounded(redactor):
    """
    What both sides tell of a tick is stored as a request's effects are: without secrets, and not without end.
    """
    told = [Effect("row", "users:1", {"name": "Ann", "password": "correct horse"})]

    text = tick_sample_of("cleanup@1", told, None, [], redactor)
    huge = tick_sample_of("cleanup@1", [Effect("row", "x", "word " * MOST)], [], [], redactor)

    assert "correct horse" not in text
    hidden = {"name": "Ann", "password": redactor.token("correct horse")}
    assert [["row", "users:1", hidden]] == json.loads(text)["legacy"]
    assert json.loads(text)["modern"] is None
    assert {"tick": "cleanup@1"} == json.loads(huge)
