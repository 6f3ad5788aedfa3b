"""What expressions of routing rules may look at."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cel
import pytest

from llmgateway.pipeline.conditions import (
    _EXAMPLE,
    FIELDS,
    MOST_METADATA_BYTES,
    VARIABLES,
    BudgetsNeededError,
    BudgetUsed,
    Conditions,
    Facts,
    check_expression,
)
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import RoutingRule
from providers.adapters.dialects.registry import get_dialect
from tests.gateways import alias, deployment, key

CHAT = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}]}
NOON = 1_767_268_800.0
"""12:00 UTC on Thursday, 1 January 2026."""


def asked(body: dict[str, Any] | None = None, dialect: str = "openai.chat", **changes: Any) -> ModelRequest:
    speaks = get_dialect(dialect)
    raw = json.dumps({**CHAT, **(body or {})}).encode()
    values = {
        "id": "req_1", "path": "/v1/chat/completions", "dialect": speaks, "body": raw, "head": get_dialect("openai.chat").read_head(raw),
        "headers": [], "client_ip": "192.0.2.1", "client_request_id": "", "end_user": "",
        "started_at": 0.0, "received": 0.0, "authenticated": 0.0,
    }  # fmt: skip
    return ModelRequest(**{**values, **changes})


def rule(when: str) -> RoutingRule:
    return RoutingRule("cheap", when, "mini", cel.compile(when))


def holds(
    when: str, request: ModelRequest | None = None, *, who: Any = None, used: float | None = 0.5, now: float = NOON
) -> bool:
    conditions = Conditions()
    facts = Facts(request or asked(), who or key(), now=now, budget_used=BudgetUsed(used))
    found = conditions.hold("gpt", rule(when), facts)
    assert not conditions.failures, conditions.reasons
    return found


@pytest.mark.parametrize(
    ("when", "request_"),
    [
        ("request.model == 'gpt'", asked()),
        ("request.task_type == 'summarization'", asked(task_type="summarization")),
        ("request.stream", asked({"stream": True})),
        ("!request.stream", asked()),
        ("request.path.startsWith('/v1/chat') && request.operation == 'chat'", asked()),
        ("request.end_user == 'ana'", asked(end_user="ana")),
        ("request.session == 's-1'", asked(session="s-1")),
        ("request.client_ip == '192.0.2.1'", asked()),
        ("request.max_tokens == 7", asked({"max_tokens": 7})),
        ("request.max_tokens == 0", asked()),
        ("request.choices == 3", asked({"n": 3})),
        ("request.input_tokens > 1000", asked({"messages": [{"role": "user", "content": "word " * 2000}]})),
        ("request.input_tokens < 100", asked()),
        ("request.input_tokens == 5", asked(input_estimate=5)),
        ("request.has_tools", asked({"tools": [{"type": "function"}]})),
        ("!request.has_tools", asked({"tools": []})),
        ("!request.has_tools", asked()),
        ("request.metadata.app == 'shop'", asked({"metadata": {"app": "shop"}})),
        ("!has(request.metadata.app)", asked({"metadata": None})),
        ("!has(request.metadata.app)", asked({"metadata": {"app": "shop", "more": "x" * MOST_METADATA_BYTES}})),
        ("'x-team' in headers && headers['x-team'] == 'red, blue'", asked(headers=[(b"X-Team", b"red"), (b"x-team", b"blue")])),
        ("key.id == '1' && key.name == 'alice' && key.team == 'red' && team == 'red'", asked()),
        ("request['mo' + 'del'] == 'gpt' && 'session' in request", asked()),
        ("budget_used == 0.5", asked()),
        ("time.hour == 12 && time.minute == 0 && time.weekday == 4 && time.date == '2026-01-01'", asked()),
    ],
)  # fmt: skip
def test_everything_that_is_known_of_a_request(when: str, request_: ModelRequest) -> None:
    assert holds(when, request_)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_image", "image_url": "https://example.test/a.png"},
        {"type": "image", "source": {"type": "base64", "data": "AA=="}},
        {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
        {"inline_data": {"mime_type": "image/png", "data": "AA=="}},
    ],
)
def test_images_are_seen_in_every_dialect(part: dict[str, Any]) -> None:
    assert holds("request.has_images", asked({"messages": [{"role": "user", "content": [part]}]}))


def test_a_text_about_images_is_none() -> None:
    text = json.dumps({"type": "image_url", "image_url": {"url": "x"}})

    assert not holds("request.has_images", asked({"messages": [{"role": "user", "content": text}]}))


def test_the_clock_is_the_team_s() -> None:
    assert holds("time.hour == 21 && time.weekday == 4", who=key(time_zone="Asia/Tokyo"))
    assert holds("time.date == '2025-12-31' && time.hour == 23", now=NOON - 13 * 3600)


def test_the_owner_of_a_key_is_its_end_user_where_none_is_named() -> None:
    assert holds("request.end_user == 'bo'", who=key(user_id="bo"))


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("headers['x-team'] == 'red'", "there is no 'x-team'"),
        ("request.model > 1", "No such overload"),
        ("request.model", "it is 'gpt', neither true nor false"),
        ("1 / (request.max_tokens - request.max_tokens) > 0", "division by zero"),
        ("budget_used > 0.5", "budget_used"),
    ],
)
def test_what_cannot_be_evaluated_does_not_hold_and_says_why(when: str, reason: str) -> None:
    conditions = Conditions()
    facts = Facts(asked(), key(), now=NOON, budget_used=BudgetUsed(None))

    assert conditions.hold("gpt", rule(when), facts) is False
    assert conditions.hold("gpt", rule(when), facts) is False
    assert conditions.failures == {("gpt", "cheap"): 2}
    assert reason.lower() in conditions.reasons["gpt", "cheap"].lower()


def test_counters_are_asked_for_before_they_are_looked_at() -> None:
    facts = Facts(asked(), key(), now=NOON)

    with pytest.raises(BudgetsNeededError):
        Conditions().hold("gpt", rule("budget_used > 0.5"), facts)
    assert Conditions().hold("gpt", rule("request.model == 'gpt'"), facts)


def test_a_body_is_not_read_for_what_nobody_asks() -> None:
    broken = asked()
    unreadable = ModelRequest(**{name: getattr(broken, name) for name in broken.__struct_fields__} | {"body": b"\xff"})

    assert holds("request.model == 'gpt'", unreadable)


@pytest.mark.parametrize(
    "text",
    [
        "request.task_type == 'summarization'",
        "request.input_tokens > 8000 && !request.has_images",
        "'x-team' in headers && headers['x-team'] == 'red'",
        "headers['x-team'] == 'red'",
        "request.metadata.app == 'shop'",
        "budget_used > 0.8",
        "time.weekday in [6, 7] || time.hour < 8",
        "['red', 'blue'].exists(name, name == team)",
        "request.model.startsWith('request.modle')",
    ],
)
def test_expressions_that_can_be_saved(text: str) -> None:
    assert check_expression(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("request.model ==", "not an expression"),
        ("", "not an expression"),
        ("question.model == 'gpt'", "There is no `question`; there is `budget_used`, `headers`, `key`"),
        ("request.sort == 'gpt'", "There is no `request.sort`; `request` has `choices`"),
        ("request.headers['x'] == '1'", "There is no `request.headers`; write `headers` alone, for `request` has"),
        ("false && time.hours == 1", "There is no `time.hours`"),
        ("key.secret == 'x'", "There is no `key.secret`"),
        ("request.model > 1", "It cannot be evaluated: No such overload"),
        ("request.input_tokens", "It is 100 for a request; a condition must be true or false"),
        ("['a'].exists(x, x == tema)", "It cannot be evaluated: Undefined variable"),
    ],
)
def test_expressions_that_cannot_be_saved_and_why(text: str, problem: str) -> None:
    found = check_expression(text)

    assert found is not None
    assert problem in found


def test_the_example_has_everything_that_there_is() -> None:
    assert set(_EXAMPLE) == VARIABLES
    assert {name: frozenset(_EXAMPLE[name]) for name in FIELDS} == FIELDS


def test_a_request_has_everything_that_there_is() -> None:
    every = " || ".join(f"has({name}.{field})" for name, fields in FIELDS.items() for field in sorted(fields))
    found = Facts(asked(), key(), now=NOON, budget_used=BudgetUsed(0.1)).of(
        rule(f"{every} || team == '' || size(headers) > 0 || budget_used > 0")
    )

    assert set(found) == VARIABLES
    assert {name: frozenset(found[name]) for name in FIELDS} == FIELDS


def test_a_rule_that_can_be_evaluated_for_nobody_is_a_problem_until_it_is_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    conditions, broken, mended = Conditions(), rule("request.model > 1"), rule("request.model > 'a'")
    for _ in range(3):
        conditions.hold("gpt", broken, Facts(asked(), key(), now=NOON))

    (problem,) = conditions.problems({"gpt": replace(alias("gpt", deployment()), rules=(broken,))})

    assert str(problem).startswith("rule cheap of gpt: it does not apply to any request: It cannot be evaluated")
    assert conditions.problems({"gpt": replace(alias("gpt", deployment()), rules=(mended,))}) == ()
    assert conditions.problems({}) == ()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("when", "request_"),
    [
        ("headers['x-team'] == 'red'", asked()),
        ("request.metadata.size > 5", asked({"metadata": {"size": "large"}})),
        ("request.metadata.urgent", asked({"metadata": {"urgent": "yes"}})),
        ("100 / (request.choices - 3) < 0", asked({"n": 3})),
        ("request.session.matches(request.end_user)", asked(session="a", end_user="(")),
    ],
)
def test_what_some_caller_sends_makes_no_problem_of_the_configuration(when: str, request_: ModelRequest) -> None:
    conditions, odd = Conditions(), rule(when)

    conditions.hold("gpt", odd, Facts(request_, key(), now=NOON, budget_used=BudgetUsed(None)))

    assert conditions.failures == {("gpt", "cheap"): 1}
    assert conditions.problems({"gpt": replace(alias("gpt", deployment()), rules=(odd,))}) == ()


def test_the_documentation_names_every_variable() -> None:
    text = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    fields = {f"{name}.{field}" for name, each in FIELDS.items() for field in each}
    table = text.partition("### Rules")[2].partition("### Parameters")[0]

    documented = set(re.findall(r"`((?:request|key|time)\.[a-z_]+)`", table))

    assert documented == fields
    assert {name for name in VARIABLES - set(FIELDS) if f"`{name}`" in table} == VARIABLES - set(FIELDS)
