"""Aliases of a file: in any order, with all that hangs on them, and never in a circle."""

from __future__ import annotations

import pytest

from llmgateway.config_file.problems import ConfigFileError
from providers.models import AliasTarget, ModelAlias
from tests.llmgateway.config_file.conftest import load

pytestmark = pytest.mark.django_db
PLACE = "providers: {openai: {credentials: [{api_key: 'env:X'}]}}\ndeployments: {d: {provider: openai, model: m}}\n"
RICH = """aliases:
  first:
    strategy: lowest_latency
    sticky: key
    targets: [{alias: last, canary_percent: 2.5}, {deployment: d, weight: 2}]
    rules: [{when: 'team == "red"', use: last}]
    fallbacks: [last, {on: budget_exhausted, use: last}]
    parameters: {overrides: {seed: null, stop: ["1", 2]}}
    timeouts: {first_token_s: 1.5}
    retries: {attempts: 0}
    cache: {ttl_s: 60, mode: semantic, embeddings: last}
    hedge: {max_usd: "0.5"}
    mirror: {alias: last, percent: 3}
  last: {targets: [{deployment: d}]}
"""


def test_what_a_file_says_of_an_alias_is_what_the_rows_say() -> None:
    load(PLACE + RICH)

    alias, last = ModelAlias.objects.get(name="first"), ModelAlias.objects.get(name="last")
    assert (alias.strategy, alias.sticky, alias.retry_attempts) == ("lowest_latency", "key", 0)
    assert [(row.leads_to, row.weight, row.canary_percent) for row in alias.targets.all()] == [
        ("last", 1, 2.5), ("d", 2, 0),
    ]  # fmt: skip
    assert [(row.name, row.when, row.use) for row in alias.rules.all()] == [("rule-1", 'team == "red"', last)]
    assert [(row.cause, row.use) for row in alias.fallbacks.all()] == [("error", last), ("budget_exhausted", last)]
    assert (alias.parameter_defaults, alias.parameter_overrides) == ({}, {"seed": None, "stop": ["1", 2]})
    assert (alias.first_token_timeout_s, alias.total_timeout_s, alias.cache_ttl_s) == (1.5, None, 60)
    assert (alias.cache_embeddings, alias.mirror_alias, alias.mirror_percent) == (last, last, 3)
    assert alias.hedge_max_pico_usd == 500_000_000_000


def test_a_second_import_changes_nothing_and_keeps_rows() -> None:
    load(PLACE + RICH)
    before = set(AliasTarget.objects.values_list("pk", flat=True))

    assert load(PLACE + RICH).changes == []
    assert set(AliasTarget.objects.values_list("pk", flat=True)) == before


def test_what_a_file_no_longer_says_is_gone() -> None:
    load(PLACE + RICH)

    load(PLACE + "aliases: {first: {targets: [{deployment: d}]}}\n")

    alias = ModelAlias.objects.get(name="first")
    assert (alias.rules.count(), alias.fallbacks.count(), alias.targets.count()) == (0, 0, 1)
    assert (alias.mirror_alias, alias.cache_ttl_s, alias.parameter_overrides) == (None, None, {})


def test_a_chain_may_be_turned_round() -> None:
    load("aliases: {a: {fallbacks: [b]}, b: {}}\n")

    load("aliases: {a: {}, b: {fallbacks: [a]}}\n")

    assert ModelAlias.objects.get(name="b").fallbacks.get().use.name == "a"


def test_a_circle_through_what_the_file_does_not_name_is_refused() -> None:
    load("aliases: {a: {fallbacks: [b]}, b: {}}\n")

    with pytest.raises(ConfigFileError) as caught:
        load("aliases: {b: {rules: [{when: 'true', use: a}]}}\n")

    (line,) = caught.value.lines
    assert "aliases.b.rules[0].use: b → a → b is a circle: no alias may lead back to itself." in line
    assert not ModelAlias.objects.get(name="b").rules.exists()


def test_aliases_that_lead_to_each_other_are_pruned_together() -> None:
    load(PLACE + RICH)

    load(PLACE, prune=True)

    assert not ModelAlias.objects.exists()


def test_canaries_get_all_requests_at_most() -> None:
    targets = "[{deployment: d, canary_percent: 60}, {alias: b, canary_percent: 41}]"

    with pytest.raises(ConfigFileError) as caught:
        load(PLACE + f"aliases: {{b: {{}}, a: {{targets: {targets}}}}}\n")

    assert "aliases.a.targets: The canaries get 101 percent" in str(caught.value)
