"""A request whose head was said before means exactly what it would mean if it were parsed."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmgateway.api import known_heads
from llmgateway.api.asgi_types import KNOWN_HEAD, WHOLE_BODY
from llmgateway.api.http_protocol import MOST_NEW_HEADS, NEW_HEADS_EACH
from llmgateway.api.inbound import Inbound, InboundReader
from llmgateway.api.known_heads import LARGEST_HEAD
from tests.api.test_http_protocol import OK, App, Wire, body

HEAD = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer sk-gw-1\r\n"
    b"X-Custom: one\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Last: z\r\n\r\n"
)


def post(content: bytes, head: bytes = HEAD) -> bytes:
    return head % len(content) + content


def recording(seen: list[tuple[dict[str, Any], bytes]]) -> App:
    """Notes each scope with the body that `receive` gives."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        seen.append((copy.copy(scope), content))
        await send(OK)
        await send(body(b"hi"))

    return app


def plain(scope: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scope.items() if name != "extensions"}


async def test_the_second_request_is_not_parsed_and_means_the_same() -> None:
    ours: list[tuple[dict[str, Any], bytes]] = []
    theirs: list[tuple[dict[str, Any], bytes]] = []
    wire, other = Wire(recording(ours)), Wire(recording(theirs), HttpToolsProtocol)

    for content in (b'{"a":1}', b'{"longer":"body"}', b"{}"):
        await wire.send(post(content))
        await other.send(post(content))

    assert [KNOWN_HEAD in scope["extensions"] for scope, _ in ours] == [False, True, True]
    assert [(plain(scope), content) for scope, content in ours] == [
        (plain(scope), content) for scope, content in theirs
    ]
    assert [scope["extensions"][WHOLE_BODY] for scope, _ in ours] == [content for _, content in ours]


async def test_the_answer_to_a_known_head_is_the_same_and_the_connection_goes_on() -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))

    one = await wire.send(post(b"{}"))
    await wire.send(post(b"[]"))
    await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    whole = await wire.send(post(b"{1}"))

    assert whole == one * 4
    assert [content for _, content in seen] == [b"{}", b"[]", b"", b"{1}"]
    assert not wire.pipe.closed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda sent: sent.replace(b"sk-gw-1", b"sk-gw-2"), id="another-key"),
        pytest.param(lambda sent: sent.replace(b"X-Last: z", b"X-Last: y"), id="another-header-behind-the-length"),
        pytest.param(lambda sent: sent.replace(b"POST", b"PUT "), id="another-method"),
    ],
)
async def test_a_head_that_differs_is_parsed(change: Any) -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))
    changed = change(post(b"{}"))

    await wire.send(post(b"{}"))
    await wire.send(changed)

    expected: list[tuple[dict[str, Any], bytes]] = []
    await Wire(recording(expected), HttpToolsProtocol).send(changed)
    assert KNOWN_HEAD not in seen[1][0]["extensions"]
    assert plain(seen[1][0]) == plain(expected[0][0])


async def test_a_body_that_comes_later_or_a_second_request_behind_it_is_parsed() -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))
    await wire.send(post(b"{}"))
    sent = post(b'{"late":1}')

    await wire.send(sent[:-4], sent[-4:])
    await wire.send(post(b"1") + post(b"22"))

    assert [content for _, content in seen] == [b"{}", b'{"late":1}', b"1", b"22"]
    assert not any(KNOWN_HEAD in scope["extensions"] for scope, _ in seen)


@pytest.mark.parametrize(
    "line", [b"Connection: close", b"Expect: 100-continue", b"Upgrade: h2c", b"Content-Length: %d", b"X: \xff"]
)
async def test_a_head_that_asks_for_more_is_answered_as_ever(line: bytes) -> None:
    """Twice on one connection: whatever the first leads to, the second leads to the same bytes as without memory."""
    sent = post(b"{}", HEAD.replace(b"X-Last: z", b"X-Last: z\r\n" + line.replace(b"%d", b"2")))
    ours: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(ours))

    first = await wire.send(sent)
    if wire.pipe.closed:
        assert len(ours) <= 1
        return
    second = await wire.send(sent)

    assert second == first * 2


@given(parts=st.lists(st.integers(1, 400), min_size=0, max_size=4), content=st.binary(max_size=200))
async def test_however_a_request_is_cut_its_body_is_the_same(parts: list[int], content: bytes) -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))
    await wire.send(post(b"{}"))
    sent = post(content)
    places = sorted({min(part, len(sent)) for part in parts})

    await wire.send(*[sent[a:b] for a, b in zip([0, *places], [*places, len(sent)], strict=True) if a != b])

    assert seen[1][1] == content


async def test_what_the_gateway_reads_from_it_is_no_other_requests() -> None:
    read: list[Inbound] = []
    reader = InboundReader(("authorization",))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inbound = reader.read(scope)
        read.append(inbound)
        inbound.session = f"changed by {len(read)}"
        await send(OK)
        await send(body(b"hi"))

    wire = Wire(app)
    for content in (b"{}", b"[1]", b"[1,2]"):
        await wire.send(post(content))

    assert [(each.secret, each.content_length, each.body) for each in read] == [
        (b"sk-gw-1", 2, b"{}"),
        (b"sk-gw-1", 3, b"[1]"),
        (b"sk-gw-1", 5, b"[1,2]"),
    ]
    assert [each.session for each in read] == ["changed by 1", "changed by 2", "changed by 3"]


async def test_of_a_client_that_says_something_new_each_time_little_is_remembered() -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))

    numbers = range(MOST_NEW_HEADS + 2 * NEW_HEADS_EACH)
    for number in numbers:
        await wire.send(post(b"{}", HEAD.replace(b"one", b"%d" % number)))
    assert not any(KNOWN_HEAD in scope["extensions"] for scope, _ in seen)
    known = wire.protocol._connections.known_heads  # type: ignore[attr-defined]

    found = [known.find(post(b"{}", HEAD.replace(b"one", b"%d" % number))) for number in numbers]

    assert sum(each is not None for each in found) == MOST_NEW_HEADS + 2


async def test_a_large_head_is_not_remembered() -> None:
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))
    large = HEAD.replace(b"one", b"1" * LARGEST_HEAD)

    await wire.send(post(b"{}", large))
    await wire.send(post(b"{}", large))

    assert not any(KNOWN_HEAD in scope["extensions"] for scope, _ in seen)


async def test_connections_keep_no_head_that_is_not_remembered_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_heads, "MOST_BYTES_OF_STRANGERS", 3000)
    seen: list[tuple[dict[str, Any], bytes]] = []
    wire = Wire(recording(seen))
    await wire.send(post(b"{}"))
    scope = {"http_version": "1.1", "headers": [(b"content-length", b"2")], "method": "POST"}

    wire.protocol._connections.known_heads.learn(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", scope)  # type: ignore[attr-defined]
    seen.clear()
    await wire.send(post(b"{}"))

    assert KNOWN_HEAD not in seen[0][0]["extensions"]


class Socket:
    """Takes over a connection that becomes a WebSocket."""

    def __init__(self, **_: Any) -> None:
        self.said = b""

    def connection_made(self, transport: Any) -> None:
        transport.get_protocol = lambda: self
        transport.set_protocol = lambda protocol: None

    def data_received(self, data: bytes) -> None:
        self.said += data


@pytest.mark.parametrize("before", [(), (b"{}",), (b"{}", b"[]")], ids=["at-once", "after-one", "after-known"])
async def test_a_websocket_takes_the_connection_over_whatever_was_said_before(before: tuple[bytes, ...]) -> None:
    wire = Wire(recording([]))
    wire.protocol.ws_protocol_class = cast("Any", Socket)
    for content in before:
        await wire.send(post(content))

    wire.protocol.data_received(b"GET /v1/realtime HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")

    assert b"upgrade: websocket" in cast("Any", wire.pipe).get_protocol().said
    assert not wire.pipe.closed
