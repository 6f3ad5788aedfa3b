"""What one connection has said is known on all others, byte for byte, and what anybody makes up has bounds."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgateway.api.asgi_types import KNOWN_HEAD
from llmgateway.api.connections import Bounds, Connections
from llmgateway.api.inbound import InboundReader
from llmgateway.api.known_heads import LARGEST_HEAD, MOST_HEADERS, KnownHead, KnownHeads
from llmgateway.pipeline.express_ways import Asker
from tests.api.test_http_protocol import Wire
from tests.api.test_known_heads import HEAD, plain, post, recording

Seen = list[tuple[dict[str, Any], bytes]]
READER = InboundReader(("authorization",))
HOST = b"Host: gateway\r\n"


def another(connections: Connections | None = None) -> tuple[Wire, Seen]:
    """A new connection; without `connections` to a server that has heard nothing yet."""
    seen: Seen = []
    return Wire(recording(seen), connections=connections or Connections(Bounds())), seen


async def having_heard(*said: bytes) -> Connections:
    connections = Connections(Bounds())
    for each in said:
        wire, _ = another(connections)
        await wire.send(each)
    return connections


async def until_it_ends(wire: Wire, said: bytes) -> tuple[bytes, bool]:
    """What is answered, and whether the server hangs up; of what is not whole nothing more comes."""
    wire.protocol.data_received(said)
    for _ in range(10):
        await asyncio.sleep(0)
    closed = wire.pipe.closed
    wire.end()
    async with asyncio.timeout(1):
        await asyncio.gather(*wire.state.tasks)
    return b"".join(wire.pipe.writes), closed


def was_known(seen: Seen) -> list[bool]:
    return [KNOWN_HEAD in scope["extensions"] for scope, _ in seen]


async def test_what_one_connection_has_said_is_known_on_the_next_from_the_first_request_on() -> None:
    ours, seen = another(await having_heard(post(b"{}")))
    theirs, expected = another()

    told = [await ours.send(post(b'{"a":1}')), await theirs.send(post(b'{"a":1}'))]

    assert was_known(seen) == [True]
    assert [(plain(scope), body) for scope, body in seen] == [(plain(scope), body) for scope, body in expected]
    assert told[0] == told[1]


async def test_heads_that_take_turns_on_a_connection_are_all_known_from_the_second_round_on() -> None:
    said = [post(b"{}", HEAD.replace(b"sk-gw-1", b"sk-gw-%d" % number)) for number in range(4)]
    wire, seen = another()

    for each in [*said, *said, *said]:
        await wire.send(each)

    assert was_known(seen) == [False] * 4 + [True] * 8
    keys = [dict(scope["headers"])[b"authorization"] for scope, _ in seen]
    assert keys == [b"Bearer sk-gw-%d" % number for number in range(4)] * 3


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        pytest.param(b"Length: 2\r", b"Length: 02\r", id="with-a-zero-in-front"),
        pytest.param(b"Length: 2\r", b"Length: +2\r", id="with-a-sign"),
        pytest.param(b"Length: 2\r", b"Length:  2\r", id="with-another-space"),
        pytest.param(b"Length: 2\r", b"Length: 2 \r", id="with-a-space-behind"),
        pytest.param(b"Length: 2\r", b"Length: 3\r", id="that-is-too-long"),
        pytest.param(b"Length: 2\r", b"Length: 1\r", id="that-is-too-short"),
        pytest.param(b"Length: 2\r", b"Length: 2\r\nContent-Length: 2\r", id="twice"),
        pytest.param(b"Length: 2\r", b"Length: 2\r\n 0\r", id="folded"),
        pytest.param(b"Length: 2\r\n", b"Length: 2\n", id="with-half-a-line-break"),
        pytest.param(b"Length: 2\r", b"Length: 2\0\r", id="with-a-nul"),
        pytest.param(HOST, HOST + b"Content-Length: 2\r\n", id="before-another"),
        pytest.param(HOST, HOST + b"X-Strength: 2\r\n", id="behind-something-like-it"),
        pytest.param(HOST, HOST + b"Transfer-Encoding: chunked\r\n", id="and-chunked"),
        pytest.param(HOST, HOST + b"Expect: 100-continue\r\n", id="and-an-expectation"),
        pytest.param(HOST, HOST + b"Connection: close\r\n", id="and-the-end"),
        pytest.param(b" HTTP/1.1", b" HTTP/1.0", id="of-an-older-version"),
        pytest.param(b"{}", b"{}" + post(b"[]"), id="and-a-second-request"),
    ],
)
async def test_a_length_that_is_said_otherwise_is_read_as_if_nothing_were_known(was: bytes, becomes: bytes) -> None:
    """Also when it was said twice before."""
    said = post(b"{}").replace(was, becomes, 1)
    assert said != post(b"{}")
    connections = await having_heard(post(b"{}"))
    for _ in range(2):
        await until_it_ends(another(connections)[0], said)
    ours, seen = another(connections)
    theirs, expected = another()

    told = [await until_it_ends(wire, said) for wire in (ours, theirs)]

    assert told[0] == told[1]
    assert [(plain(scope), body) for scope, body in seen] == [(plain(scope), body) for scope, body in expected]


PARTS = (b"\r\n", b"\n", b"\0", b" ", b"0", b"2", b":", b"Content-Length: 3\r\n", b"ength: 9\r\n", b"\r\n\r\n", b"")


@given(
    edits=st.lists(st.tuples(st.integers(0, 220), st.integers(0, 3), st.sampled_from(PARTS)), min_size=1, max_size=3),
    content=st.sampled_from((b"{}", b"ength: 9\r\n", b"\r\ncontent-length: 2\r\n\r\n{}")),
)
async def test_whatever_is_changed_in_a_known_head_it_means_what_it_means_to_the_parser(
    edits: list[tuple[int, int, bytes]], content: bytes
) -> None:
    said = post(content)
    for place, gone, put in edits:
        said = said[:place] + put + said[place + gone :]
    ours, seen = another(await having_heard(post(b"{}"), post(b"ength: 9\r\n")))
    theirs, expected = another()

    told = [await until_it_ends(wire, said) for wire in (ours, theirs)]

    assert told[0] == told[1]
    assert [(plain(scope), body) for scope, body in seen] == [(plain(scope), body) for scope, body in expected]


def heard(said: bytes, heads: KnownHeads, *, of_caller: bool) -> KnownHead | None:
    """What `heads` remembers when a server has parsed it."""
    headers = [line.split(b": ", 1) for line in said.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/x", "raw_path": b"/v1/x", "query_string": b"",
        "headers": [(name.lower(), value) for name, value in headers],
    }  # fmt: skip

    def knows(head: KnownHead, scope: Any) -> bool:
        head.reading = READER.read(scope)
        return of_caller

    return heads.learn(said, scope, knows)


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        pytest.param(
            b"Content-Length: 2\r\nContent-Length: 2\r\n",
            [(b"content-length", b"2"), (b"content-length", b"2")],
            id="two-lengths",
        ),
        pytest.param(b"X: a\n\r\nContent-Length: 2\r\n", [(b"x", b"a"), (b"content-length", b"2")], id="half-a-break"),
        pytest.param(b"Content-Length: 2\r\n 0\r\n", [(b"content-length", b"20")], id="folded"),
        pytest.param(b"X: a \r\nContent-Length: 2\r\n", [(b"x", b"a"), (b"content-length", b"2")], id="space-behind"),
    ],
)
def test_what_parsers_may_read_in_several_ways_is_not_remembered(
    said: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Whatever ours makes of it, now or in a later version."""
    scope = {"http_version": "1.1", "method": "POST", "raw_path": b"/", "query_string": b"", "headers": headers}
    usual = {**scope, "headers": [(b"content-length", b"2")]}

    assert KnownHeads().learn(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", usual) is not None
    assert KnownHeads().learn(b"POST / HTTP/1.1\r\n%b\r\n{}" % said, scope) is None


def of_size(number: int, headers: int, size: int) -> bytes:
    """A request with so many headers, whose head has so many bytes."""
    lines = b"".join(b"X-%d: y\r\n" % each for each in range(headers - 2))
    start = b"POST /v1/x HTTP/1.1\r\nContent-Length: 2\r\n" + lines + b"Authorization: Bearer %d" % number
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n{}"


def test_what_strangers_make_up_pushes_out_no_caller_and_has_its_bound() -> None:
    heads = KnownHeads()
    ours = post(b"{}")
    assert heard(ours, heads, of_caller=True)

    for number in range(3000):
        heard(of_size(number, 10, 3000), heads, of_caller=False)

    assert heads.find(ours) is not None
    assert heads.find(of_size(2999, 10, 3000)) is not None
    assert heads.find(of_size(0, 10, 3000)) is None


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        pytest.param(MOST_HEADERS, LARGEST_HEAD, id="largest"),
        pytest.param(MOST_HEADERS, 900, id="many-headers"),
        pytest.param(16, 750, id="usual"),
        pytest.param(2, LARGEST_HEAD, id="one-long-header"),
        pytest.param(2, 100, id="smallest"),
    ],
)
def test_heads_take_no_more_memory_than_is_counted(headers: int, size: int) -> None:
    """With who asks."""
    heads, count = KnownHeads(), 200
    said = [of_size(number, headers, size) for number in range(count)]
    tracemalloc.start()
    try:
        for each in said:
            head = heard(each, heads, of_caller=True)
            assert head is not None
            head.asker = asker_of(head)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    counted = heads._of_callers
    assert len(counted) == count
    assert taken < counted.weight < 2 * taken


def asker_of(head: KnownHead) -> Asker:
    inbound = head.reading
    made = Asker(
        path="/v1/x", dialect=object(), secret=inbound.secret, headers=inbound.forwarded,  # type: ignore[arg-type]
        client_request_id="", end_user="", session="", task_type="",
    )  # fmt: skip
    made.move("192.0.2.1", "192.0.2.1")
    return made


def test_ten_thousand_callers_as_they_are_usually_stay_known() -> None:
    heads = KnownHeads()
    said = [of_size(number, 16, 750) for number in range(10_000)]

    for each in said:
        heard(each, heads, of_caller=True)

    assert all(heads.find(each) is not None for each in said)


class NobodyComes:
    """A short way that nobody may take."""

    def begin(self, *_: Any) -> bool:
        raise AssertionError

    def knows(self, *_: Any) -> bool:
        return False


async def test_a_known_head_opens_no_door_for_a_connection_that_is_not_welcome() -> None:
    """There is no room for it, whatever it says."""
    told: list[tuple[bytes, int]] = []
    for said in (post(b"{}"), post(b"{}", HEAD.replace(b"sk-gw-1", b"sk-gw-2"))):
        connections = Connections(Bounds(most=1))
        first, _ = another(connections)
        await first.send(post(b"{}"))
        connections.express = cast("Any", NobodyComes())
        second, seen = another(connections)
        told.append((await second.send(said), len(seen)))

    known, unknown = told
    assert known == unknown
    assert known[0].startswith(b"HTTP/1.1 503 ")
    assert known[1] == 0
