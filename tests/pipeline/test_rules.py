"""Which limits and budgets bind a request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.rules import BudgetIndex, RuleBook, address_subject
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Key, Limit
from providers.adapters.body import RequestHead
from providers.adapters.dialects.registry import get_dialect
from tests.gateways import alias, deployment, key

PER_MINUTE = Limit("limit:1", "60 requests per minute", "key", 60, 60)
OF_CODER = structs.replace(PER_MINUTE, counter="limit:2", amount=5, burst=5, model="coder")
PER_DAY = structs.replace(PER_MINUTE, counter="limit:3", per="day")
EACH_ADDRESS = Limit("limit:4", "60 requests per minute", "global", 60, 60, each="ip")
EACH_USER = Limit("limit:5", "60 requests per minute", "global", 60, 60, each="end_user")
EACH_MODEL = Limit("limit:6", "60 requests per minute", "global", 60, 60, each="model")
MONTH = BudgetRule(1, "month", "key", "1", "month", 100, "UTC")


def asked(**changes: object) -> ModelRequest:
    values = {
        "id": "req_1", "path": "/v1/chat/completions", "dialect": get_dialect("openai.chat"), "body": b"{}",
        "head": RequestHead("gpt"), "headers": [], "client_ip": "192.0.2.1", "client_request_id": "", "end_user": "",
        "started_at": 0.0, "received": 0.0, "authenticated": 0.0,
    }  # fmt: skip
    return ModelRequest(**{**values, **changes})  # type: ignore[arg-type]


def counters(who: Key, model: Alias, **changes: object) -> list[str]:
    return [limit.counter for limit in RuleBook().of(asked(**changes), who, model).limits]


def test_a_limit_for_one_model_stands_in_place_of_the_general_one_and_counts_no_other() -> None:
    who = key(limits=(PER_MINUTE, OF_CODER, PER_DAY))

    assert counters(who, alias("coder")) == ["limit:2", "limit:3"]
    assert counters(who, alias("gpt")) == ["limit:1", "limit:3"]


def test_an_override_in_shadow_lifts_nothing() -> None:
    on_trial = structs.replace(OF_CODER, shadow=True)

    assert counters(key(limits=(PER_MINUTE, on_trial)), alias("coder")) == ["limit:1", "limit:2"]


def test_a_key_s_override_leaves_the_team_s_limit_in_force() -> None:
    of_team = structs.replace(PER_MINUTE, counter="limit:9", scope="team")

    assert counters(key(limits=(PER_MINUTE, OF_CODER, of_team)), alias("coder")) == ["limit:2", "limit:9"]


def test_a_key_s_override_for_each_address_leaves_the_team_s_in_force() -> None:
    of_team = Limit("limit:7", "9 requests per minute", "ip", 9, 9, each="ip", owner="team:3")
    of_key = structs.replace(of_team, counter="limit:8", model="coder", owner="key:1")

    assert counters(key(limits=(of_key, of_team)), alias("coder")) == ["limit:8:ip:192.0.2.1", "limit:7:ip:192.0.2.1"]


def test_the_alias_s_own_rules_bind_every_caller() -> None:
    coder = replace(alias("coder"), limits=(PER_DAY,), budgets=(MONTH,))

    rules = RuleBook().of(asked(), key(limits=(PER_MINUTE,)), coder)

    assert [limit.counter for limit in rules.limits] == ["limit:1", "limit:3"]
    assert rules.budgets == (MONTH,)


def test_rules_for_each_address_end_user_and_model_have_counters_of_their_own() -> None:
    who = key(limits=(EACH_ADDRESS, EACH_USER, EACH_MODEL))

    assert counters(who, alias("gpt"), end_user="ana") == [
        "limit:4:ip:192.0.2.1",
        "limit:5:end_user:ana",
        "limit:6:model:gpt",
    ]


def test_without_an_end_user_the_key_s_owner_counts_and_without_either_nothing_does() -> None:
    assert counters(key(limits=(EACH_USER,), user_id="bo"), alias("gpt")) == ["limit:5:end_user:bo"]
    assert counters(key(limits=(EACH_USER,)), alias("gpt")) == []


def test_a_budget_for_each_end_user_is_bound_to_one() -> None:
    who = key(budgets=(structs.replace(MONTH, scope="end_user", scope_id="", each="end_user"),))

    (bound,) = RuleBook().of(asked(end_user="ana"), who, alias("gpt")).budgets

    assert bound.scope_id == "ana"


@pytest.mark.parametrize(
    ("client_ip", "subject"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(client_ip: str, subject: str) -> None:
    assert address_subject(client_ip) == subject


def test_an_edited_key_is_seen_at_once() -> None:
    book, model = RuleBook(), alias("gpt")
    who = key(limits=(PER_MINUTE,))
    book.of(asked(), who, model)

    edited = structs.replace(who, limits=(PER_DAY,))

    assert book.of(asked(), edited, model).limits == (PER_DAY,)


def test_budgets_are_found_by_whom_they_bind() -> None:
    budgets = {
        number: BudgetRule(number, "b", scope, scope_id, "day", 1, "UTC")
        for number, (scope, scope_id) in enumerate(
            [
                ("key", "1"), ("key", "2"), ("team", "3"), ("global", ""), ("model", "gpt"), ("model", "other"),
                ("deployment", "main"), ("provider", "provider-main"), ("provider", "other"),
            ]
        )
    }  # fmt: skip
    index = BudgetIndex(budgets)

    assert [rule.id for rule in index.of(key(), alias("gpt"), deployment())] == [0, 2, 3, 4, 6, 7]
    assert [rule.id for rule in index.of(key(), alias("gpt"), None)] == [0, 2, 3, 4]
