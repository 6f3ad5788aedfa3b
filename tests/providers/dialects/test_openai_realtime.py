"""What is read of realtime events: usage in disjoint buckets, models, caps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.base import WireError
from providers.adapters.dialects.openai_realtime import (
    NO_EVENT,
    detects_turns,
    failure,
    output_cap,
    read_event,
    transcription_model,
    with_model,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import Usage

REALTIME = get_dialect("openai.realtime")
USAGE: dict[str, Any] = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {
        "text_tokens": 100,
        "audio_tokens": 20,
        "image_tokens": 12,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 58, "audio_tokens": 4, "image_tokens": 2},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}


def test_usage_is_split_into_buckets_that_add_up() -> None:
    usage = REALTIME.usage(USAGE)

    assert usage == Usage(input=42, cache_read=64, audio_input=16, image_input=10, output=30, audio_output=91)
    assert (usage.input_tokens, usage.output_tokens) == (132, 121)


def test_cached_sound_that_is_not_told_apart_is_what_cannot_have_been_text() -> None:
    details = {"text_tokens": 10, "audio_tokens": 90, "cached_tokens": 64}
    usage = REALTIME.usage({"input_tokens": 100, "output_tokens": 0, "input_token_details": details})

    assert usage == Usage(input=0, cache_read=64, audio_input=36)


def test_the_preview_s_names_are_known() -> None:
    usage = REALTIME.usage({"input_tokens": 9, "output_tokens": 0, "input_tokens_details": {"audio_tokens": 4}})

    assert (usage.input, usage.audio_input) == (5, 4)


def test_details_that_exceed_their_total_are_flagged_and_the_totals_billed() -> None:
    usage = REALTIME.usage({"input_tokens": 5, "output_tokens": 2, "output_token_details": {"audio_tokens": 3}})

    assert usage == Usage(input=5, output=2, consistent=False)


def test_a_transcription_may_be_billed_by_its_duration() -> None:
    assert REALTIME.usage({"type": "duration", "seconds": 1.5}).units == (("millisecond", 1500),)


@pytest.mark.parametrize("raw", [{"input_tokens": "5"}, {"type": "duration", "seconds": -1}, {"type": "duration"}])
def test_usage_that_is_no_count_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(MalformedUsageError):
        REALTIME.usage(raw)


@pytest.mark.parametrize("frame", ["", "no json", "[]", '{"type": 5}', b'{"type": "response.create"}', '{"a":' * 5000])
def test_a_frame_that_is_no_event_says_nothing(frame: str | bytes) -> None:
    assert read_event(frame) == NO_EVENT


def test_a_model_is_replaced_and_nothing_else() -> None:
    event = {"type": "session.update", "session": {"model": "voice", "new": [1, None]}, "more": {"model": "stays"}}

    assert json.loads(with_model(json.dumps(event), "gpt-realtime")) == {
        "type": "session.update",
        "session": {"model": "gpt-realtime", "new": [1, None]},
        "more": {"model": "stays"},
    }


@pytest.mark.parametrize(
    ("session", "detects", "model"),
    [
        ({"audio": {"input": {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "w"}}}}, True, "w"),
        ({"audio": {"input": {"turn_detection": None}}}, False, ""),
        ({"turn_detection": {"type": "server_vad", "create_response": False}}, False, ""),
        ({"turn_detection": {"type": "semantic_vad"}, "input_audio_transcription": {"model": "w"}}, True, "w"),
        ({}, None, ""),
        ("odd", None, ""),
    ],
)
def test_sessions_say_who_takes_turns_and_who_writes(session: Any, detects: bool | None, model: str) -> None:
    assert (detects_turns(session), transcription_model(session)) == (detects, model)


@pytest.mark.parametrize(
    ("asked", "cap"),
    [
        ({"max_output_tokens": 7}, 7),
        ({"max_response_output_tokens": 9}, 9),
        ({"max_output_tokens": "inf"}, None),
        ({"max_output_tokens": True}, None),
        (None, None),
    ],
)
def test_caps(asked: Any, cap: int | None) -> None:
    assert output_cap(asked) == cap


def test_why_a_response_failed() -> None:
    details = {"type": "failed", "error": {"type": "server_error", "code": "rate_limit_exceeded"}}

    assert failure({"status_details": details}) == "rate_limit_exceeded"
    assert failure({"status_details": None}) == "upstream_error"


def test_an_error_is_an_event() -> None:
    event = json.loads(REALTIME.error_event(WireError(402, "No.", "insufficient_quota", "insufficient_quota")))

    assert event["type"] == "error"
    assert event["error"]["code"] == "insufficient_quota"
    assert event["event_id"].startswith("event_")
