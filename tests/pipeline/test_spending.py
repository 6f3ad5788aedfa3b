"""What a caller would pay at most: refused when the estimate is higher, and the output capped to what it pays for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from billing.pricing import cost
from llmgateway.pipeline.errors import BudgetExceededError
from llmgateway.pipeline.learning import OutputLearner
from llmgateway.pipeline.requests import ModelRequest, Spending
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.snapshot import AdmissionRules, Deployment
from llmgateway.pipeline.terms import ADDED_CAP_TOKENS, Ask, Terms
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import Usage
from tests.gateways import PRICE, alias, deployment, key

CHAT = get_dialect("openai.chat")


def request(spending: Spending | None, *, text: str = "Hi", **fields: object) -> ModelRequest:
    body = json.dumps({"model": "gpt", "messages": [{"role": "user", "content": text}], **fields}).encode()
    head = CHAT.read_head(body)
    return ModelRequest("req_1", "/", CHAT, body, head, (), "", "", "", 0.0, 0.0, 0.0, spending=spending)


def ask(asked: ModelRequest, *candidates: Deployment) -> Ask:
    rules = Rules(key(), alias("gpt", *candidates), (), (), each=False, strict=False)
    return Terms().ask(asked, rules, candidates, AdmissionRules(), now=1.0)


def cap_of(asked: ModelRequest, one: Deployment) -> int | None:
    (terms,) = ask(asked, one).strict
    return terms.within if terms is not None else None


def test_the_learner_starts_empty() -> None:
    """The figures below count on the estimate of a model that nothing was learnt of."""
    assert OutputLearner().expected("1", "gpt-upstream") is None


def test_nothing_is_capped_where_nobody_names_a_largest_price() -> None:
    assert ask(request(None), deployment()).strict == (None,)


def test_a_request_that_is_expected_to_cost_more_is_refused() -> None:
    with pytest.raises(BudgetExceededError) as refused:
        ask(request(Spending(999, expected_output=100)), deployment())

    assert (refused.value.status, refused.value.code, refused.value.param) == (402, "max_cost_exceeded", "max_cost_usd")


def test_a_cheaper_target_of_the_same_model_may_answer() -> None:
    cheap = deployment("cheap", 2, prices=(replace(PRICE, input=1, output=1),))

    found = ask(request(Spending(500, expected_output=100)), deployment(), cheap)

    assert found.candidates == (cheap,)


def test_a_model_without_a_price_is_refused() -> None:
    with pytest.raises(BudgetExceededError) as refused:
        ask(request(Spending(10**12, expected_output=1)), deployment(prices=()))

    assert refused.value.code == "model_not_priced"


def test_the_request_s_own_cap_lowers_what_is_expected() -> None:
    assert cap_of(request(Spending(500, expected_output=100), max_tokens=10), deployment()) is not None


def test_no_cap_is_larger_than_what_the_model_can_say() -> None:
    spending = Spending(10**12, expected_output=100)

    assert cap_of(request(spending), deployment()) == ADDED_CAP_TOKENS
    assert cap_of(request(spending), deployment(max_output_tokens=50)) == 50


@given(
    text=st.text(max_size=300),
    input_price=st.integers(0, 1000),
    output_price=st.integers(1, 1000),
    expected=st.integers(1, 500),
    beyond=st.integers(0, 10**7),
    fee=st.integers(0, 10**6),
)
def test_the_bill_stays_below_whatever_the_text_turns_out_to_be(
    *, text: str, input_price: int, output_price: int, expected: int, beyond: int, fee: int
) -> None:
    price = replace(
        PRICE, input=input_price, output=output_price, request=fee, cache_read=0, cache_write_5m=0, cache_write_1h=0,
        audio_input=0, image_input=0, reasoning=output_price, audio_output=0,
    )  # fmt: skip
    asked = request(None, text=text)
    most = len(asked.body) * input_price + expected * output_price + fee + beyond
    asked = structs.replace(asked, spending=Spending(most, expected_output=expected))

    cap = cap_of(asked, deployment(prices=(price,)))

    assert cap is not None
    assert cap >= min(expected, ADDED_CAP_TOKENS)
    assert cost(price, Usage(input=len(asked.body), output=cap)) <= most
