"""The adapter `gemini` keeps the contract on its own fixtures."""

from __future__ import annotations

from typing import ClassVar

import pytest

from providers.adapters.dialects.registry import get_dialect
from providers.adapters.registry import get_adapter
from providers.adapters.types import JSONObject, NativeCall
from tests.providers.contract import ProviderContract

GENERATE = get_dialect("gemini.generate_content")
ADAPTER = get_adapter("gemini")


class TestGemini(ProviderContract):
    name = "gemini"
    longest = 100
    dialect_name = "gemini.generate_content"
    input_field = "promptTokenCount"
    contradiction: ClassVar[JSONObject] = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "cachedContentTokenCount": 99,
    }

    def reported(self, raw: JSONObject) -> tuple[int, int]:
        return raw["promptTokenCount"], raw["candidatesTokenCount"] + raw["thoughtsTokenCount"]


@pytest.mark.parametrize(
    ("dialect", "model", "stream", "path"),
    [
        ("gemini.generate_content", "gemini-x", False, "/models/gemini-x:generateContent"),
        ("gemini.generate_content", "gemini-x", True, "/models/gemini-x:streamGenerateContent?alt=sse"),
        ("gemini.generate_content", "tunedModels/mine", False, "/tunedModels/mine:generateContent"),
        ("gemini.embed_content", "a?b", False, "/models/a%3Fb:embedContent"),
        ("gemini.batch_embed_contents", "gemini-x", False, "/models/gemini-x:batchEmbedContents"),
    ],
)
def test_the_path_names_model_and_method(dialect: str, model: str, stream: bool, path: str) -> None:
    assert ADAPTER.path(get_dialect(dialect), model, stream=stream) == path


@pytest.mark.parametrize("base_url", ["https://g.example/v1beta", "https://g.example/v1beta/openai"])
def test_rows_that_named_the_address_for_openais_clients_still_work(base_url: str) -> None:
    assert ADAPTER.url(base_url, GENERATE, "m") == "https://g.example/v1beta/models/m:generateContent"
    assert ADAPTER.models_url(base_url) == "https://g.example/v1beta/models"


@pytest.mark.parametrize(
    ("path", "call"),
    [
        (
            "/v1beta/models/m:streamGenerateContent",
            NativeCall("gemini.generate_content", "/v1beta/models/", "m", ":streamGenerateContent", True),
        ),
        (
            "/models/m:generateContent",
            NativeCall("gemini.generate_content", "/models/", "m", ":generateContent", False),
        ),
        ("/v1/models/m:embedContent", NativeCall("gemini.embed_content", "/v1/models/", "m", ":embedContent", False)),
        ("/v1beta/models/m:countTokens", None),
        ("/v1beta/models", None),
        ("/v1beta/cachedContents", None),
    ],
)
def test_calls_of_its_own_api_are_recognised(path: str, call: NativeCall | None) -> None:
    assert ADAPTER.native_call(path) == call
