"""Requests that mean the same have the same key, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgateway.pipeline.cache_keys import deciding_fields, digest_of, scope_of
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import CacheRule, CacheSettings, Parameters
from llmgateway.pipeline.routing import Routed
from llmgateway.pipeline.snapshot import Alias, Deployment, ForeignKey, Key
from providers.adapters.dialects.registry import get_dialect
from tests.gateways import alias, deployment, key

BODY = {
    "model": "gpt",
    "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
    "temperature": 0.2,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}],
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def request(
    body: Any = None, *, dialect: str = "openai.chat", headers: Sequence[tuple[bytes, bytes]] = (), **changes: Any
) -> ModelRequest:
    content = body if isinstance(body, bytes) else json.dumps(BODY if body is None else body).encode()
    spoken = get_dialect(dialect)
    head = spoken.read_head(content, model="gpt" if dialect.startswith("gemini") else "")
    base: dict[str, Any] = {
        "id": "req_1", "path": "/", "dialect": spoken, "body": content, "head": head, "headers": headers,
        "client_ip": "192.0.2.1", "client_request_id": "", "end_user": "", "started_at": 0.0, "received": 0.0,
        "authenticated": 0.0,
    }  # fmt: skip
    return ModelRequest(**(base | changes))


def digest(
    asked: ModelRequest,
    *,
    who: Key | None = None,
    name: Alias | None = None,
    targets: tuple[Deployment, ...] = (),
    settings: CacheSettings = CacheSettings(),  # noqa: B008
) -> bytes | None:
    caller = who or key()
    fields = deciding_fields(asked, caller)
    if fields is None:
        return None
    asked_of = name or alias("gpt", *(targets or (deployment(),)))
    routed = Routed(asked_of, asked_of.deployments)
    return digest_of(scope_of(asked, caller, routed, settings), fields)


REFERENCE = digest(request())


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(each) for each in value] if isinstance(value, list) else value


def test_what_has_more_values_than_can_be_compared_at_once_is_not_kept() -> None:
    assert digest(request({**BODY, "x": [1] * 300_001})) is None
    assert digest(request({**BODY, "x": "1" * 600_001})) is not None


def test_order_and_space_make_no_difference() -> None:
    spaced = json.dumps(reordered(BODY), indent=3, ensure_ascii=True).encode()

    assert digest(request(spaced)) == REFERENCE


@given(st.dictionaries(st.text(min_size=1, max_size=6), VALUES, max_size=4))
def test_any_body_has_the_key_of_its_reordered_self(more: dict[str, Any]) -> None:
    body = BODY | {f"x{name}": value for name, value in more.items()}

    assert digest(request(reordered(body))) == digest(request(body)) is not None


@given(st.sampled_from(["temperature", "messages", "tools", "seed", "novel"]), VALUES)
def test_any_other_value_of_any_field_has_another_key(field: str, value: Any) -> None:
    body = BODY | {field: value}
    try:
        asked = request(body)
    except Exception:  # noqa: BLE001  # Not a request at all.
        return

    same = field in BODY and json.dumps(value) == json.dumps(BODY[field])
    assert (digest(asked) == REFERENCE) is same


def test_numbers_that_no_float_holds_are_told_apart() -> None:
    assert digest(request(BODY | {"seed": 2**64 + 1})) != digest(request(BODY | {"seed": 2**64 + 2}))


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "somebody"},
        {"metadata": {"a": "b"}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_decides_no_answer_makes_no_difference(more: dict[str, Any]) -> None:
    assert digest(request(BODY | more)) == REFERENCE


def test_headers_of_a_vendor_make_a_difference_and_those_of_libraries_none() -> None:
    neutral = [
        (b"user-agent", b"x"),
        (b"x-stainless-os", b"y"),
        (b"accept", b"*/*"),
        (b"traceparent", b"00-1"),
        (b"cache-control", b"max-age=5"),
    ]

    assert digest(request(headers=neutral)) == REFERENCE
    assert digest(request(headers=[(b"vendor-beta", b"new-tools")])) != REFERENCE


@pytest.mark.parametrize(
    "changes",
    [
        {"who": key(team_id=4)},
        {"who": key(team_id=0)},
        {"name": replace(alias("gpt", deployment()), cache=CacheRule(60, generation=1))},
        {"name": alias("gpt-other", deployment())},
        {"name": replace(alias("gpt", deployment()), parameters=Parameters(defaults={"temperature": 0}))},
        {"name": replace(alias("gpt", deployment()), parameters=Parameters(overrides={"top_p": None}))},
        {"targets": (deployment(model="gpt-next"),)},
        {"targets": (deployment(number=2),)},
        {"targets": (deployment(), deployment("second", 2))},
        {"settings": CacheSettings(generation=1)},
    ],
    ids=[
        "team",
        "no team",
        "alias emptied",
        "alias",
        "defaults",
        "overrides",
        "model",
        "deployment",
        "targets",
        "emptied",
    ],
)
def test_another_tenant_model_route_or_generation_has_another_key(changes: dict[str, Any]) -> None:
    assert digest(request(), **changes) != REFERENCE


def test_the_order_of_targets_makes_no_difference() -> None:
    one, two = deployment(), deployment("second", 2)

    assert digest(request(), targets=(one, two)) == digest(request(), targets=(two, one))


def test_a_target_that_is_out_just_now_makes_no_difference() -> None:
    both = alias("gpt", deployment(), deployment("second", 2))
    fields = deciding_fields(request(), key())

    well, ailing = (
        digest_of(scope_of(request(), key(), Routed(both, candidates), CacheSettings()), fields)
        for candidates in (both.deployments, both.deployments[1:])
    )

    assert well == ailing


def test_where_a_rule_leads_makes_a_difference() -> None:
    asked_of, other = alias("gpt", deployment()), alias("other", deployment("second", 2))
    redirected = Routed(asked_of, other.deployments, hops=(other,))

    assert (
        digest_of(scope_of(request(), key(), redirected, CacheSettings()), deciding_fields(request(), key()))
        != REFERENCE
    )


def test_a_team_and_a_key_of_one_number_are_told_apart() -> None:
    assert digest(request(), who=key(team_id=7)) != digest(request(), who=key(id="7", team_id=0))


def test_streams_of_protocols_that_cannot_be_read_have_keys_of_their_own() -> None:
    body = {"model": "gpt", "prompt": "Hi"}
    whole, stream = (digest(request(body | {"stream": s}, dialect="openai.completions")) for s in (False, True))

    assert whole != stream


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai.chat", BODY | {"store": True}),
        ("openai.responses", {"model": "gpt", "input": "Hi"}),
        ("openai.responses", {"model": "gpt", "input": "Hi", "store": False, "previous_response_id": "resp_1"}),
        ("anthropic.messages", {"model": "gpt", "max_tokens": 0, "messages": []}),
        ("anthropic.messages", {"model": "gpt", "max_tokens": 5, "messages": [], "container": "c"}),
        ("gemini.generate_content", {"contents": [], "cachedContent": "cachedContents/1"}),
        ("openai.moderations", {"model": "gpt", "input": "Hi"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_effects_besides_its_answer_has_no_key(dialect: str, body: dict[str, Any]) -> None:
    assert digest(request(body, dialect=dialect)) is None


def test_a_callers_own_key_at_a_provider_has_none() -> None:
    own = ForeignKey(id="d", public_id="", name="", team_id=0, team_name="", secret="s")

    assert digest(request(), who=own) is None
