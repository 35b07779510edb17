"""
Two answers and all that they differ in.
"""

from __future__ import annotations

import pytest

from bridge.parity import Capture, Effect, Ending, Kind, Rules, Tier, compare
from bridge.parity.documents import NotJSON, parse
from bridge.parity.ids import IdMap
from tests.parity.conftest import JSON, raw, seen

ONE = "11111111-1111-4111-8111-111111111111"
TWO = "22222222-2222-4222-8222-222222222222"
THREE = "33333333-3333-4333-8333-333333333333"


def kinds(left, right, *args, **kwargs):
    return [(d.kind, d.path) for d in compare(left, right, *args, **kwargs).differences]


@pytest.mark.parametrize(
    "left, right, expected",
    [
        ('{"a":1}', '{"a":2}', [(Kind.VALUE, "$.a")]),
        ('{"a":1}', "{}", [(Kind.MISSING, "$.a")]),
        ("{}", '{"a":1}', [(Kind.ADDED, "$.a")]),
        ('{"a":null}', "{}", [(Kind.NULL_OR_MISSING, "$.a")]),
        ("{}", '{"a":null}', [(Kind.NULL_OR_MISSING, "$.a")]),
        ('{"a":1}', '{"a":1.0}', [(Kind.INT_OR_FLOAT, "$.a")]),
        ('{"a":1}', '{"a":1.5}', [(Kind.VALUE, "$.a")]),
        ('{"a":1}', '{"a":"1"}', [(Kind.STRING_OR_NUMBER, "$.a")]),
        ('{"a":1.5}', '{"a":"1.5"}', [(Kind.STRING_OR_NUMBER, "$.a")]),
        ('{"a":1}', '{"a":true}', [(Kind.TYPE, "$.a")]),
        ('{"a":1}', '{"a":null}', [(Kind.TYPE, "$.a")]),
        ('{"a":{}}', '{"a":[]}', [(Kind.TYPE, "$.a")]),
        ('{"a":1,"b":2}', '{"b":2,"a":1}', [(Kind.ORDER, "$")]),
        ("[1,2,3]", "[3,2,1]", [(Kind.ORDER, "$")]),
        ('[{"a":[1,2]}]', '[{"a":[2,1]}]', [(Kind.ORDER, "$[0].a")]),
        ("[1,2]", "[1,2,3]", [(Kind.LENGTH, "$")]),
        ('{"a":1,"a":2}', '{"a":2}', [(Kind.DUPLICATE_KEY, "$.a")]),
        ('{"a":2}', '{"a":1,"a":2}', [(Kind.DUPLICATE_KEY, "$.a")]),
        ('{"a.b":1}', '{"a.b":2}', [(Kind.VALUE, '$["a.b"]')]),
        ("1", "2", [(Kind.VALUE, "$")]),
        ('{"a":1}', '{"a":', [(Kind.BODY, "body")]),
        ('{"a": 1}', '{"a":1}', []),
        ('{"a":1e-7}', '{"a":1e-07}', []),
        ('{"a":NaN}', '{"a": NaN}', []),
    ],
)
def test_classes_of_json(left, right, expected):
    """
    Each way in which documents differ has a class of its own, and a path.
    """
    assert expected == kinds(raw(left), raw(right))


def test_all_differences_are_reported():
    """
    Not only the first: status, header and every path.
    """
    left = seen({"a": 1, "b": [1, {"c": 2}]}, headers=[*JSON, (b"x-a", b"1")])
    right = seen({"a": 2, "b": [1, {"c": 3}]}, status=201)

    assert [
        (Kind.STATUS, "status"),
        (Kind.HEADER_MISSING, "header:x-a"),
        (Kind.VALUE, "$.a"),
        (Kind.VALUE, "$.b[1].c"),
    ] == kinds(left, right)


def test_tiers():
    """
    The same bytes are identical, whatever the chunks; the same document in other bytes
    is equivalent, unless the route wants every byte.
    """
    one, two = raw('{"a": 1, "b": "ü"}'), raw('{"a":1,"b":"\\u00fc"}')

    assert Tier.IDENTICAL is compare(one, seen(one.prefix, headers=JSON, chunk=3)).tier
    assert Tier.EQUIVALENT is compare(one, two).tier
    assert [(Kind.BYTES, "body")] == kinds(one, two, Rules(strict=True))
    assert Tier.DIFFERENT is compare(one, raw("{}")).tier


def test_truncated_is_never_equal():
    """
    What is past the digest's limit is unknown, so it is not the same.
    """
    capture = Capture(prefix=4, limit=8)

    assert [(Kind.TRUNCATED, "body")] == kinds(seen(b"x" * 9, capture=capture), seen(b"x" * 9, capture=capture))
    assert [] == kinds(seen(b"x" * 8, capture=capture), seen(b"x" * 8, capture=capture))
    assert [(Kind.BODY, "body")] == kinds(seen(b"x" * 7 + b"y", capture=capture), seen(b"x" * 8, capture=capture))


@pytest.mark.parametrize(
    "left, right, expected",
    [
        ([(b"Date", b"1")], [(b"date", b"2"), (b"Server", b"x")], []),
        ([(b"X-A", b"1")], [(b"x-a", b"1")], []),
        ([(b"x-a", b"1"), (b"x-a", b"2")], [(b"x-a", b"2"), (b"x-a", b"1")], []),
        ([(b"x-a", b"1"), (b"x-a", b"1")], [(b"x-a", b"1")], [(Kind.HEADER, "header:x-a")]),
        ([], [(b"x-a", b"1")], [(Kind.HEADER_ADDED, "header:x-a")]),
        (
            [(b"content-type", b"text/html; Charset=UTF-8")],
            [(b"content-type", b'text/html;charset="utf-8"')],
            [],
        ),
        (
            [(b"content-type", b"text/html")],
            [(b"content-type", b"text/plain")],
            [(Kind.HEADER, "header:content-type")],
        ),
        ([(b"vary", b"Accept, Cookie")], [(b"vary", b"cookie"), (b"vary", b"accept")], []),
        ([(b"cache-control", b"no-store, max-age=0")], [(b"cache-control", b"max-age=0,no-store")], []),
        (
            [(b"cache-control", b"max-age=0")],
            [(b"cache-control", b"max-age=1")],
            [(Kind.HEADER, "header:cache-control")],
        ),
        (
            [(b"set-cookie", b"a=1; Path=/; HttpOnly; SameSite=Lax")],
            [(b"set-cookie", b"a=1; httponly; samesite=lax; path=/")],
            [],
        ),
        (
            [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=1")],
            [(b"set-cookie", b"b=2; Path=/"), (b"set-cookie", b"c=1")],
            [
                (Kind.HEADER_MISSING, "header:set-cookie[a]"),
                (Kind.HEADER, "header:set-cookie[b]"),
                (Kind.HEADER, "header:set-cookie[b].path"),
                (Kind.HEADER_ADDED, "header:set-cookie[c]"),
            ],
        ),
        (
            [(b"set-cookie", b"a=1; Max-Age=9; Expires=Thu, 01 Jan 2026 00:00:00 GMT")],
            [(b"set-cookie", b"a=1; Max-Age=9; Expires=Thu, 01 Jan 2026 00:01:00 GMT")],
            [],
        ),
        (
            [(b"set-cookie", b"a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT")],
            [(b"set-cookie", b"a=1; Expires=Thu, 01 Jan 2026 00:00:01 GMT")],
            [],
        ),
        (
            [(b"set-cookie", b"a=1; Expires=Thu, 01 Jan 2026 00:00:00 GMT")],
            [(b"set-cookie", b"a=1; Expires=never")],
            [(Kind.HEADER, "header:set-cookie[a].expires")],
        ),
    ],
)
def test_headers(left, right, expected):
    """
    Names without case, values as a multiset, and by structure where there is one.
    """
    assert expected == kinds(seen(headers=left), seen(headers=right))


def test_a_length_is_its_bodys():
    """
    A Content-Length that only tells the body's size is no second difference; one that
    lies, or a HEAD's, is one.
    """
    short = seen(b"1", headers=[(b"content-length", b"1")])
    long = seen(b"12", headers=[(b"content-length", b"2")])
    head = seen(b"", headers=[(b"content-length", b"2")])

    assert [(Kind.BODY, "body")] == kinds(short, long)
    assert [(Kind.HEADER, "header:content-length"), (Kind.BODY, "body")] == kinds(short, head)


def test_modern_may_tell_a_length_where_legacy_sent_chunks():
    """
    A length that is told where none was is the framing, as C{transfer-encoding} is. One that lies is a difference,
    and so is one that legacy told and modern doesn't.

    Seen to fail without the exception, and with one that doesn't ask for the size or the side.
    """
    chunks = seen(b"12", headers=[(b"transfer-encoding", b"chunked")])
    told = seen(b"12", headers=[(b"content-length", b"2")])
    lies = seen(b"12", headers=[(b"content-length", b"3")])

    assert [] == kinds(chunks, told)
    assert [(Kind.HEADER_ADDED, "header:content-length")] == kinds(chunks, lies)
    assert [(Kind.HEADER_MISSING, "header:content-length")] == kinds(told, chunks)


def test_rules_ignore_what_lies_below():
    """
    An ignored path covers its subtree, and nothing beside it.
    """
    left = seen({"a": {"b": 1, "c": 2}, "ab": 1, "rows": [{"at": 1}, {"at": 2}]})
    right = seen({"a": {"b": 2, "c": 3}, "ab": 2, "rows": [{"at": 3}, {"at": 4}]})

    assert [(Kind.VALUE, "$.ab")] == kinds(left, right, Rules(("$.a", "$.rows[*].at")))
    assert [] == kinds(left, right, Rules(("$.**",)))
    assert [] == kinds(left, right, Rules(("body",)))
    assert [(Kind.VALUE, "$.a.c")] == kinds(left, right, Rules(("$.*.b", "$.ab", "$.rows")))


def test_rules_ignore_headers_in_any_case():
    """
    A header's rule is about its name, however it is written.
    """
    assert [] == kinds(seen(headers=[(b"ETag", b"1")]), seen(), Rules(("header:ETag",)))


def test_tolerance():
    """
    Numbers may lie apart as far as was agreed, and no further.
    """
    rules = Rules(tolerate={"$.eta": 1.0, "header:age": 2.0})

    assert [] == kinds(seen({"eta": 1.5}), seen({"eta": 2.5}), rules)
    assert [] == kinds(seen({"eta": 1}), seen({"eta": 1.5}), rules)
    assert [(Kind.VALUE, "$.eta")] == kinds(seen({"eta": 1}), seen({"eta": 3}), rules)
    assert [] == kinds(seen(headers=[(b"age", b"1")]), seen(headers=[(b"age", b"3")]), rules)
    assert 1 == len(kinds(seen(headers=[(b"age", b"1")]), seen(headers=[(b"age", b"x")]), rules))


def test_numbers_that_no_float_holds():
    """
    A tolerance says nothing of an integer that is larger than any float; it differs, and nothing is raised.
    """
    rules = Rules(tolerate={"$.a": 1.0})

    assert [(Kind.VALUE, "$.a")] == kinds(raw('{"a":1.5}'), raw('{"a":' + "9" * 400 + "}"), rules)


def test_endings():
    """
    A handler that raised isn't one that answered; a client that left is nobody's fault.
    """
    good, raised = seen(b"x"), seen(b"x", how=Ending.RAISED, error="ValueError")

    [difference] = compare(good, raised).differences
    assert (Kind.ENDING, "complete", "raised ValueError") == (
        difference.kind,
        difference.left,
        difference.right,
    )
    assert [] == kinds(seen(b"x", how=Ending.LEFT), seen(b"xyz"))


def test_streams_by_their_first_events():
    """
    A stream is compared as far as both showed it; JSON in its data by path.
    """
    capture = Capture(events=2)
    one = seen(b'id: 1\ndata: {"a":1}\n\ndata: x\n\nda', how=Ending.ENOUGH, capture=capture)
    two = seen(b'id: 1\r\ndata: {"a": 1}\r\n\r\ndata: x\r\n\r\n', how=Ending.ENOUGH, capture=capture)
    other = seen(b'id: 2\ndata: {"a":2}\n\ndata: y\n\n', how=Ending.ENOUGH, capture=capture)
    ended = seen(b'id: 1\ndata: {"a":1}\n\n', capture=capture)

    assert [] == kinds(one, two, stream=True)
    assert [
        (Kind.VALUE, "events[0].id"),
        (Kind.VALUE, "events[0].data.a"),
        (Kind.VALUE, "events[1].data"),
    ] == kinds(one, other, stream=True)
    assert [(Kind.LENGTH, "events")] == kinds(one, ended, stream=True)


def test_ids_of_two_runs():
    """
    Two sandboxes give their own ids: each stands for one of the other's, and for no
    second one.
    """
    left = seen({"id": ONE, "next": f"/task/{ONE}", "user_id": 7})
    right = seen({"id": TWO, "next": f"/task/{TWO}", "user_id": 9})
    crossed = seen({"id": TWO, "next": f"/task/{THREE}", "user_id": 9})

    assert 3 == len(kinds(left, right))
    assert [] == kinds(left, right, ids=IdMap())
    assert [(Kind.VALUE, "$.next")] == kinds(left, crossed, ids=IdMap())


def test_one_id_for_two_is_a_difference():
    """
    Where one run uses two ids and the other one, they did not do the same.
    """
    left, right = seen([ONE, TWO]), seen([THREE, THREE])

    assert [(Kind.VALUE, "$[1]")] == kinds(left, right, ids=IdMap())
    assert [(Kind.ID, "$[1]")] == kinds(seen([ONE, TWO]), seen([TWO, TWO]), ids=IdMap())


def test_moments_of_two_runs():
    """
    Two runs can't have happened at once: near times are the same, if they are written
    the same way.
    """
    rules = Rules(moments=60)
    at = "2026-11-21T20:00:00.000000Z"

    assert [] == kinds(seen({"at": at}), seen({"at": "2026-11-21T20:00:59.123456Z"}), rules)
    for other in ("2026-11-21T20:01:01.000000Z", "2026-11-21T20:00:00Z", "2026-11-21 20:00:00.000000Z"):
        assert [(Kind.VALUE, "$.at")] == kinds(seen({"at": at}), seen({"at": other}), rules)
    bad = seen({"at": "2026-13-41T20:00:00.000000Z"})
    assert [(Kind.VALUE, "$.at")] == kinds(bad, seen({"at": at}), rules)


def test_effects_under_a_map_of_ids():
    """
    Rows, files and mails are the same, if they are under the ids that the answers paired.
    """

    def run(id_, name="a"):
        return seen(
            {"task_id": id_},
            effects=[
                Effect("row", f"tasks:{id_}", {"id": id_, "name": name}),
                Effect("mail", id_, None),
            ],
        )

    assert [] == kinds(run(ONE), run(TWO), ids=IdMap())
    assert [(Kind.VALUE, "effect:row:tasks.name")] == kinds(run(ONE), run(TWO, "b"), ids=IdMap())


@pytest.mark.parametrize(
    "left, right, expected",
    [
        (["a"], [], [(Kind.EFFECT_MISSING, "effect:row:t")]),
        ([], ["a"], [(Kind.EFFECT_ADDED, "effect:row:t")]),
        (["a"], ["a", "a"], [(Kind.EFFECT_COUNT, "effect:row:t"), (Kind.EFFECT_ADDED, "effect:row:t")]),
        (["a"], ["b"], [(Kind.ID, "effect:row:t")]),
    ],
)
def test_effects_more_or_less(left, right, expected):
    """
    A dropped effect, a doubled one and one on something else are three things.
    """

    def run(keys):
        return seen(effects=[Effect("row", f"t:{key}", 1) for key in keys])

    assert expected == kinds(run(left), run(right))
    assert [] == kinds(run(left), run(right), Rules(("effect:row:t",)))


def test_effects_of_runs_that_interleave():
    """
    Rows that are only counted are matched by what they say, in whatever order they came;
    none of their numbers or times matters, and each field still does.
    """

    def run(first, events):
        made = [
            Effect(
                "row",
                f"events:{first + n}",
                {"seq": first + n, "task_id": task, "status": status, "at": f"2026-11-21T20:00:0{n}.000000Z"},
            )
            for n, (task, status) in enumerate(events)
        ]
        return seen({"ids": sorted({task for task, _ in events})}, effects=made)

    left = run(1, [(ONE, "PENDING"), (TWO, "PENDING"), (ONE, "SUCCESS"), (TWO, "SUCCESS")])
    right = run(7, [(TWO, "PENDING"), (TWO, "SUCCESS"), (THREE, "PENDING"), (THREE, "SUCCESS")])
    failed = run(7, [(TWO, "PENDING"), (TWO, "SUCCESS"), (THREE, "PENDING"), (THREE, "FAILURE")])
    rules = Rules(moments=60.0)

    assert [] == kinds(left, right, rules, IdMap())
    assert [(Kind.VALUE, "effect:row:events.status")] == kinds(left, failed, rules, IdMap())


def test_moments_in_texts():
    """
    Times inside a text count as times: a mail's date, a line of a table.
    """
    rules = Rules(moments=60.0)
    line = "a,2026-11-21T20:00:00.000000Z,b"

    assert [] == kinds(seen([line]), seen([line.replace("00.0", "05.0")]), rules)
    mail = "Date: Sat, 21 Nov 2026 23:55:31 +0000"
    assert [] == kinds(seen([mail]), seen([mail.replace("31", "59")]), rules)
    assert [(Kind.VALUE, "$[0]")] == kinds(seen([mail]), seen([mail.replace("Nov", "Oct")]), rules)
    assert [(Kind.VALUE, "$[0]")] == kinds(seen([mail]), seen([mail.replace("Nov", "Xyz")]), rules)


def test_fingerprints_forget_values_and_places():
    """
    The same fault in another request, row or id is the same fault.
    """
    one = compare(seen({"rows": [{"a": 1}]}), seen({"rows": [{"a": 2}]}))
    two = compare(seen({"rows": [{"a": 1}, {"a": 5}]}), seen({"rows": [{"a": 1}, {"a": 6}]}))
    other = compare(seen({"rows": [{"b": 1}]}), seen({"rows": [{"b": 2}]}))

    assert one.fingerprints == two.fingerprints
    assert one.fingerprints != other.fingerprints
    data = compare(seen({ONE: 1}), seen({ONE: 2})).differences[0]
    assert "$.*" == data.place


def test_depth_costs_no_stack():
    """
    Documents nested past any stack are compared as bytes, not with a crash.
    """
    deep = b"[" * 100_000 + b"]" * 100_000
    capture = Capture()

    found = compare(seen(deep, headers=JSON, capture=capture), seen(deep[1:-1], headers=JSON, capture=capture))

    assert [Kind.BODY] == [d.kind for d in found.differences]


def test_json_is_utf8():
    """
    What isn't UTF-8, or no document, is no JSON.
    """
    for data in (b"\xff", b"{", b""):
        with pytest.raises(NotJSON):
            parse(data)


def test_texts_of_two_runs():
    """
    A text that isn't JSON is the same under the map of ids, unless every byte counts.
    """
    left, right = seen(f"task {ONE}\n".encode()), seen(f"task {TWO}\n".encode())

    assert [] == kinds(left, right, ids=IdMap())
    assert [(Kind.BODY, "body")] == kinds(left, right, Rules(strict=True), IdMap())
    assert [(Kind.BODY, "body")] == kinds(left, seen(b"task x\n"), ids=IdMap())


def test_streams_of_two_runs():
    """
    Events too; and what a stream that ended had left over is its last.
    """
    left = seen(f"data: {ONE}\n\n: done".encode())
    right = seen(f"data: {TWO}\n\n: done".encode())

    assert [] == kinds(left, right, ids=IdMap(), stream=True)
    assert [(Kind.VALUE, "events[1].comment")] == kinds(
        left, seen(f"data: {TWO}\n\n: bye".encode()), ids=IdMap(), stream=True
    )
    two_lines = seen(b"data: a\ndata: b\n\n")
    assert [(Kind.VALUE, "events[0].data")] == kinds(two_lines, seen(b"data: a\ndata: c\n\n"), stream=True)


def test_headers_of_two_runs():
    """
    A location and a cookie that hold an id are the same under the map.
    """

    def run(id_):
        return seen(headers=[(b"location", b"/task/" + id_.encode()), (b"set-cookie", b"sid=" + id_.encode())])

    assert [] == kinds(run(ONE), run(TWO), ids=IdMap())
    assert 2 == len(kinds(run(ONE), run(TWO)))


def test_odd_headers():
    """
    What can't be read is compared as it stands.
    """
    odd = [
        [(b"set-cookie", b"a=1; ; Expires=soon")],
        [(b"content-type", b"text/html; ; charset")],
        [(b"cache-control", b", no-store,")],
        [(b"set-cookie", b"a=1")],
    ]

    for headers in odd:
        assert [] == kinds(seen(headers=headers), seen(headers=headers[::-1]))
    assert [(Kind.HEADER, "header:set-cookie[a].expires")] == kinds(seen(headers=odd[0]), seen(headers=odd[3]))
    assert [] == kinds(seen(headers=odd[2]), seen(headers=[(b"cache-control", b"No-Store")]))


def test_a_whole_rule_covers_the_document():
    """
    C{$} leaves the document out, and nothing else.
    """
    left, right = seen({"a": 1}), seen({"a": 2}, status=201)

    assert [(Kind.STATUS, "status")] == kinds(left, right, Rules(("$",)))
