"""What lists of models say of each, beside its name, in the words of each protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmgateway.pipeline.capabilities import capabilities_of, dearest_of
from llmgateway.pipeline.snapshot import Capabilities
from tests.fakes import ScriptedUpstream
from tests.gateways import PRICE, SECRET, House, alias, deployment, snapshot

LARGE = deployment(
    max_output_tokens=8192,
    capabilities=Capabilities(200_000, 8192, ("text", "image"), ("text",), tools=True, deprecated_on="2027-01-31"),
    prices=(replace(PRICE, input=150_000, output=600_000),),
)
SMALL = deployment(
    "other",
    2,
    max_output_tokens=4096,
    capabilities=Capabilities(128_000, 4096, ("text",), ("text",), tools=False, reasoning=True),
    prices=(replace(PRICE, input=200_000, output=500_000),),
)
UNKNOWN = deployment("third", 3, prices=())


async def listed(name: str = "gpt", **headers: str) -> Any:
    models = (alias("gpt", LARGE), alias("both", LARGE, SMALL), alias("plain", UNKNOWN))
    place = House(ScriptedUpstream(), snapshot(*models))
    return (await place.get(f"/v1/models/{name}", **headers)).json()


async def test_openai_s_shape_has_all_of_it_beside_its_own_fields() -> None:
    assert await listed() == {
        "id": "gpt",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "provider-main",
        "context_window": 200_000,
        "max_output_tokens": 8192,
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "tools": True,
        "usd_per_million": {"input": "0.15", "output": "0.6"},
        "deprecated_on": "2027-01-31",
    }


async def test_anthropic_s_and_google_s_have_what_they_have_words_for() -> None:
    anthropic = await listed(anthropic_version="2023-06-01")
    google = await listed("both", authorization="", x_goog_api_key=SECRET)

    assert (anthropic["max_input_tokens"], anthropic["max_tokens"]) == (200_000, 8192)
    assert anthropic["deprecated_at"] == "2027-01-31T00:00:00Z"
    assert (google["inputTokenLimit"], google["outputTokenLimit"]) == (128_000, 4096)


async def test_what_nobody_knows_is_not_there() -> None:
    assert await listed("plain") == {
        "id": "plain", "object": "model", "created": 1_700_000_000, "owned_by": "provider-third",
    }  # fmt: skip


def test_several_deployments_promise_what_all_of_them_can() -> None:
    assert capabilities_of(alias("both", LARGE, SMALL)) == Capabilities(
        128_000, 4096, ("text",), ("text",), tools=False, reasoning=None, deprecated_on="2027-01-31"
    )
    assert capabilities_of(alias("one", LARGE, UNKNOWN)).context_window is None
    assert capabilities_of(alias("none")) == Capabilities()


def test_the_price_is_the_dearest_that_may_apply() -> None:
    assert dearest_of(alias("both", LARGE, SMALL), 1.0) == (200_000, 600_000)
    assert dearest_of(alias("one", LARGE, UNKNOWN), 1.0) is None
