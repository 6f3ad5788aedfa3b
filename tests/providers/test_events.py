"""Events come out whole and once, wherever the network cuts the bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters.errors import MalformedAnswerError
from providers.adapters.events import EVENT_MAX, EventSplitter, ServerEvent

STREAM = (
    '\ufeff: hello\n\ndata: {"a":"Grüße 🎉"}\n\nevent: ping\ndata:{}\r\n\r\n'
    "event: two\ndata: line 1\ndata: line 2\nid: 7\nretry: 3\n\ndata: cr\r\r\n\n\ndata: last"
).encode()
EVENTS = [
    ServerEvent('{"a":"Grüße 🎉"}'.encode(), ""),
    ServerEvent(b"{}", "ping"),
    ServerEvent(b"line 1\nline 2", "two"),
    ServerEvent(b"cr", ""),
    ServerEvent(b"last", ""),
]  # fmt: skip


def split(chunks: list[bytes]) -> list[ServerEvent]:
    splitter = EventSplitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    return [*events, *splitter.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_do_not_depend_on_where_they_are_cut(size: int) -> None:
    assert split([STREAM[at : at + size] for at in range(0, len(STREAM), size)]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_nor_on_any_other_cuts(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]

    assert split([STREAM[start:end] for start, end in pairwise(edges)]) == EVENTS


def test_json_instead_of_events_is_kept_whole() -> None:
    splitter = EventSplitter()

    events = [*splitter.feed(b' {"error":\n\n'), *splitter.feed(b"1}"), *splitter.finish()]

    assert events == []
    assert splitter.whole == b' {"error":\n\n1}'


def test_an_event_stream_is_no_json() -> None:
    splitter = EventSplitter()

    assert list(splitter.feed(b"data: {}\n\n")) == [ServerEvent(b"{}", "")]
    assert splitter.whole == b""


def test_an_endless_line_is_given_up() -> None:
    splitter = EventSplitter()

    with pytest.raises(MalformedAnswerError, match="more than"):
        list(splitter.feed(b"data: " + b"x" * EVENT_MAX))


def test_a_line_of_megabytes_is_one_event() -> None:
    text = b"x" * (4 * 1024 * 1024)
    stream = b"data: " + text + b"\n\n"

    assert split([stream[at : at + 4096] for at in range(0, len(stream), 4096)]) == [ServerEvent(text, "")]
