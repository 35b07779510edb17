"""
What a match text means, and what is no match text.
"""

from __future__ import annotations

import pytest

from bridge.errors import PatternError
from bridge.routing import Pattern


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("GET /export/{export_id}", "GET /export/{export_id}"),
        ("get /", "GET /"),
        ("POST,GET /a", "GET,POST /a"),
        ("GET,HEAD /a", "GET /a"),
        ("HEAD /a", "HEAD /a"),
        ("GET  /a%2fb/%C3%A9/~x", "GET /a%2Fb/%C3%A9/~x"),
        ("GET /é/{rest:path}", "GET /%C3%A9/{rest:path}"),
        ("GET /a/", "GET /a/"),
        ("M-SEARCH /a", "M-SEARCH /a"),
    ],
)
def test_a_text_has_one_normal_form(text: str, normal: str) -> None:
    """
    The name in state, audit log and commands doesn't depend on how the policy writes it.
    """
    found = Pattern.parse(text)

    assert found.text == normal
    assert Pattern.parse(normal) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GET",
        "GET x",
        "GET /a /b",
        "G@T /a",
        ",GET /a",
        "GET /a?b=1",
        "GET /a#b",
        "GET /{",
        "GET /a{b}",
        "GET /{a}{b}",
        "GET /{}",
        "GET /{1a}",
        "GET /{a}/{a}",
        "GET /{a:int}",
        "GET /{a:path}/b",
    ],
)
def test_what_is_no_route_is_refused(text: str) -> None:
    """
    The error shows the text and how to write one.
    """
    with pytest.raises(PatternError) as caught:
        Pattern.parse(text)

    assert repr(text) in str(caught.value)
    assert "GET /export/{export_id}" in str(caught.value)


def test_parameters_are_found_by_name() -> None:
    """
    A value is decoded once, and a name that isn't there is a KeyError.
    """
    pattern = Pattern.parse("GET /u/{user}/f/{rest:path}")

    assert pattern.parameters == ("user", "rest")
    assert pattern.value(b"/u/a%2520b/f/x/y", "user") == b"a%20b"
    assert pattern.value(b"/u/a/f/x/y", "rest") == b"x/y"
    with pytest.raises(KeyError):
        pattern.value(b"/u/a/f/x", "other")


@pytest.mark.parametrize(("text", "reads"), [("GET /a", True), ("HEAD /a", True), ("GET,POST /a", False)])
def test_reads_are_get_and_head_alone(text: str, reads: bool) -> None:
    """
    What else is in the list makes it a write.
    """
    assert Pattern.parse(text).reads is reads


@pytest.mark.parametrize("raw_path", [b"*", b"/u", b"/u/", b"/u/a", b"/u/a/f", b"/v/a/f/x"])
def test_the_definition_refuses_what_is_another_path(raw_path: bytes) -> None:
    """
    The plain definition, which the table is held against.
    """
    assert not Pattern.parse("GET /u/{user}/f/{rest:path}").matches(b"GET", raw_path)


def test_a_name_that_only_stands_in_a_literal_is_no_parameter() -> None:
    """
    place() looks at parameters alone.
    """
    with pytest.raises(KeyError):
        Pattern.parse("GET /user/{id}").place("user")
