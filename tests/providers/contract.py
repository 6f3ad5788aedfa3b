"""What every adapter must do, run on the bytes of its own fixture folder.

`tests/providers/fixtures/<name>/` holds `chat.json`, `chat_stream.sse`, `errors.json` (status, body, kind) and
`expected.json`. A provider's test is a subclass that names it, and its dialect if that is not OpenAI's.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from providers.adapters.base import Adapter
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedUsageError
from providers.adapters.registry import get_adapter
from providers.adapters.types import ErrorKind, JSONObject, Usage

FIXTURES = Path(__file__).parent / "fixtures"
ELSEWHERE = "https://llm.example.org/v1"
"""Where a server without an address of its own is."""


class ProviderContract:
    name: ClassVar[str]
    longest: ClassVar[int] = 60
    """Lines that the adapter may have: what is alike belongs into the base."""
    dialect_name: ClassVar[str] = "openai.chat"
    """Of the fixtures: the one that the provider prefers for chats."""
    input_field: ClassVar[str] = "prompt_tokens"
    """Where usage counts the input."""
    contradiction: ClassVar[JSONObject] = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 99},
    }
    """Usage of 10 tokens of input and 5 of output, of which details say something impossible."""

    @property
    def dialect(self) -> Dialect:
        return get_dialect(self.dialect_name)

    def reported(self, raw: JSONObject) -> tuple[int, int]:
        """All input and all output, as the provider's usage says it."""
        return raw["prompt_tokens"], raw["total_tokens"] - raw["prompt_tokens"]

    @property
    def folder(self) -> Path:
        return FIXTURES / self.name

    @property
    def adapter(self) -> Adapter:
        return get_adapter(self.name)

    @cached_property
    def expected(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "expected.json").read_text())
        return content

    @property
    def stream(self) -> bytes:
        return (self.folder / "chat_stream.sse").read_bytes()

    def test_it_is_found_by_name(self) -> None:
        assert self.adapter.name == self.name

    def test_it_is_one_short_module(self) -> None:
        module = Path("providers/adapters") / f"{self.name}.py"

        assert module.is_file()
        assert len(module.read_text().splitlines()) <= self.longest

    def test_a_chat_goes_to_its_address(self) -> None:
        base_url = self.adapter.base_url or ELSEWHERE

        url = base_url + self.adapter.path(self.dialect, "any/model")

        assert not base_url.endswith("/")
        assert url == (self.expected["request_url"] or f"{ELSEWHERE}/chat/completions")

    def test_every_operation_has_a_path(self) -> None:
        assert self.adapter.dialects()
        for name in self.adapter.dialects():
            assert self.adapter.path(get_dialect(name), "m").startswith("/")
            assert self.adapter.path(get_dialect(name), "m", stream=True).startswith("/")

    def test_the_secret_authenticates_and_its_absence_is_no_header(self) -> None:
        headers = dict(self.adapter.headers("secret"))

        name, value = self.expected.get("authentication", ["authorization", self.expected.get("authorization")])
        assert headers[name.encode()].decode() == value
        assert all(name == name.lower() for name in headers)
        assert self.adapter.headers(None) == ()

    def test_usage_of_an_answer(self) -> None:
        body = (self.folder / "chat.json").read_bytes()

        raw, model = self.dialect.answer_usage(body)

        assert raw is not None
        assert self.adapter.usage(raw, self.dialect) == msgspec.convert(self.expected["usage"], Usage)
        assert model == self.expected["response_model"]

    @pytest.mark.parametrize("size", [1, 7, 64, 1_000_000])
    def test_usage_of_a_stream_however_it_is_cut(self, size: int) -> None:
        scanner = self.dialect.scanner(strip_usage=False)

        for at in range(0, len(self.stream), size):
            scanner.feed(self.stream[at : at + size])
        scanner.finish()

        assert scanner.usage_raw is not None
        assert self.adapter.usage(scanner.usage_raw, self.dialect) == msgspec.convert(
            self.expected["stream_usage"], Usage
        )
        assert scanner.response_model == self.expected["response_model"]
        assert scanner.first_token
        assert scanner.error is None

    def test_a_caller_who_did_not_ask_sees_all_but_the_usage_chunk(self) -> None:
        """Every other byte survives, fields that nobody here knows included. Only OpenAI's dialects have such a chunk."""
        scanner = self.dialect.scanner(strip_usage=True)

        forwarded = scanner.feed(self.stream) + scanner.finish()

        events = self.stream.split(b"\n\n")
        assert forwarded.split(b"\n\n") == [event for event in events if b'"choices":[],' not in event]

    def test_buckets_add_up_to_what_was_reported(self) -> None:
        raw, _ = self.dialect.answer_usage((self.folder / "chat.json").read_bytes())

        assert raw is not None
        usage = self.adapter.usage(raw, self.dialect)
        assert usage.consistent
        assert (usage.input_tokens, usage.output_tokens) == self.reported(raw)

    def test_fields_of_usage_that_nobody_knows_do_no_harm(self) -> None:
        raw, _ = self.dialect.answer_usage((self.folder / "chat.json").read_bytes())

        assert raw is not None
        assert self.adapter.usage({**raw, "brand_new_tokens": {"a": [1]}}, self.dialect) == self.adapter.usage(
            raw, self.dialect
        )

    @pytest.mark.parametrize("wrong", ["many", -1, True, [1], 10**10, 10**30, float("nan")])
    def test_usage_that_is_no_count_is_refused(self, wrong: object) -> None:
        with pytest.raises(MalformedUsageError):
            self.adapter.usage({self.input_field: wrong}, self.dialect)

    def test_details_beyond_their_total_are_flagged_and_billed_as_the_total(self) -> None:
        assert self.adapter.usage(self.contradiction, self.dialect) == Usage(input=10, output=5, consistent=False)

    def test_errors_mean_what_the_provider_means(self) -> None:
        for case in json.loads((self.folder / "errors.json").read_text()):
            body = case["body"][0] if isinstance(case["body"], list) else case["body"]

            kind = self.adapter.error_kind(case["status"], body)

            assert kind is ErrorKind(case["kind"]), case

    def test_output_can_be_capped_in_chats_and_not_in_embeddings(self) -> None:
        assert self.adapter.output_cap_fields(self.dialect)
        assert self.adapter.output_cap_fields(get_dialect("openai.embeddings")) == ()

    def test_observability_names_it(self) -> None:
        assert (self.adapter.provider_name or self.adapter.name) == self.expected.get("provider_name", self.name)

    def test_it_reads_nothing_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", {})

        assert dict(self.adapter.headers("secret"))
