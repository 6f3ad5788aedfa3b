"""From a model's name to the deployments that may answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from llmgateway.pipeline.conditions import BudgetsNeededError, BudgetUsed
from llmgateway.pipeline.errors import (
    BadRequestError,
    GatewayError,
    NoTargetAvailableError,
    NotFoundError,
    PermissionDeniedError,
)
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import Fallback, FallbackCause, RoutingRule
from llmgateway.pipeline.routing import AllOutError, Routed, Router
from llmgateway.pipeline.rules import NOTHING_ADDED, RuleBook
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Deployment, Key, Limit, Target
from providers.adapters.body import RequestHead
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.registry import get_adapter
from tests.gateways import deployment, key, snapshot

A, B, C, D = (deployment(name, number) for number, name in enumerate("abcd", 1))


def asked(model: str = "gpt", **changes: Any) -> ModelRequest:
    values = {
        "id": "req_1", "path": "/v1/chat/completions", "dialect": get_dialect("openai.chat"), "body": b"{}",
        "head": RequestHead(model), "headers": [], "client_ip": "192.0.2.1", "client_request_id": "", "end_user": "",
        "started_at": 0.0, "received": 0.0, "authenticated": 0.0,
    }  # fmt: skip
    return ModelRequest(**{**values, **changes})


def nested(name: str, *targets: Deployment | Alias, strategy: str = "priority", **changes: Any) -> Alias:
    made = [Target(None, alias=each) if isinstance(each, Alias) else Target(each) for each in targets]
    return replace(Alias(hash(name), name, 0, strategy, tuple(made)), **changes)


def rule(use: str, when: str = "true", name: str = "rule") -> RoutingRule:
    return RoutingRule(name, when, use, cel.compile(when))


class Wards:
    """Health as a list of those who are ill."""

    def __init__(self, *ill: Deployment) -> None:
        self.ill = {each.id for each in ill}

    def usable(self, candidates: tuple[Deployment, ...], *, bypass: bool = False) -> tuple[Deployment, ...]:
        if bypass or not self.ill & {each.id for each in candidates}:
            return candidates
        return tuple(each for each in candidates if each.id not in self.ill)


class Map:
    """All aliases, one key, and the router between them."""

    def __init__(self, *aliases: Alias, who: Key | None = None, ill: Iterable[Deployment] = ()) -> None:
        self.snapshot = snapshot(*aliases)
        self.key = who or key()
        self.router = Router(Wards(*ill))

    def route(self, model: str = "gpt", **changes: Any) -> Routed:
        return self.router.route(self.snapshot, self.key, asked(model, **changes), now=0.0)

    def names(self, model: str = "gpt", **changes: Any) -> str:
        return "".join([each.name for each in self.route(model, **changes).candidates])

    def fallbacks(self, model: str, cause: FallbackCause, tried: Iterable[int] = ()) -> Routed | None:
        there = self.snapshot.aliases[model]
        return self.router.fallbacks(
            self.snapshot, self.key, asked(model), there, cause, now=0.0, tried=frozenset(tried)
        )

    def instead(self, model: str, cause: FallbackCause, tried: Iterable[int] = ()) -> str:
        found = self.fallbacks(model, cause, tried)
        return "".join([each.name for each in found.candidates]) if found else ""


def via(routed: Routed) -> dict[str, list[str]]:
    """The names of the aliases on the way to each deployment."""
    return {each.name: [hop.name for hop in routed.via.get(each.id, ())] for each in routed.candidates}


class TestPlainAliases:
    def test_the_alias_and_its_deployments_in_order(self) -> None:
        gpt = nested("gpt", A, B)

        assert Map(gpt).route() == Routed(gpt, (A, B))

    def test_a_model_that_does_not_exist(self) -> None:
        with pytest.raises(NotFoundError, match="'none' does not exist"):
            Map(nested("gpt", A)).route("none")

    def test_a_model_that_the_key_may_not_use(self) -> None:
        with pytest.raises(PermissionDeniedError, match="may not use the model 'gpt'"):
            Map(nested("gpt", A), who=key(models=frozenset({"other"}))).route()

    def test_those_that_are_out_are_left_out(self) -> None:
        assert Map(nested("gpt", A, B, C), ill=[B]).names() == "ac"

    def test_when_all_are_out_it_is_said_who_is_waited_for(self) -> None:
        with pytest.raises(AllOutError) as caught:
            Map(nested("gpt", A, B), ill=[A, B]).route()

        assert caught.value.deployments == (A, B)
        assert caught.value.code == "no_healthy_target"

    def test_a_key_that_may_is_sent_where_circuits_are_open_when_it_asks_for_it(self) -> None:
        staff = Map(nested("gpt", A, B), who=key(may_bypass_health=True), ill=[A])

        assert [staff.names(bypass_health=True), staff.names()] == ["ab", "b"]
        assert Map(nested("gpt", A, B), ill=[A]).names(bypass_health=True) == "b"

    def test_what_has_a_problem_is_left_out_and_not_waited_for(self) -> None:
        broken = replace(A, problem="its credential cannot be read")

        assert Map(nested("gpt", broken, B)).names() == "b"
        with pytest.raises(NoTargetAvailableError, match="Ask an admin") as caught:
            Map(nested("gpt", broken)).route()
        assert not isinstance(caught.value, AllOutError)

    def test_an_operation_that_no_deployment_offers(self) -> None:
        talker = replace(A, adapter=get_adapter("anthropic"))

        with pytest.raises(BadRequestError, match="'gpt' does not offer moderation"):
            Map(nested("gpt", talker)).route(dialect=get_dialect("openai.moderations"))
        assert Map(nested("gpt", talker, B)).names(dialect=get_dialect("openai.moderations")) == "b"

    def test_a_dry_run_takes_nobody_s_turn(self) -> None:
        there = Map(nested("gpt", A, B, strategy="round_robin"))
        dry = [
            there.router.route(there.snapshot, there.key, asked(), now=0.0, dry_run=True).candidates[0].name
            for _ in range(3)
        ]

        assert (dry, [there.names()[0] for _ in range(3)]) == (["a"] * 3, ["a", "b", "a"])

    def test_an_edited_alias_is_balanced_anew(self) -> None:
        there = Map(nested("gpt", A, B, strategy="round_robin"))
        there.names()
        there.snapshot = snapshot(nested("gpt", C, D, strategy="round_robin"))

        assert there.names() == "cd"


class TestSticky:
    def test_requests_of_a_key_go_to_the_same_target(self) -> None:
        there = Map(nested("gpt", A, B, C, D, strategy="round_robin", sticky="key"))

        assert len({there.names() for _ in range(5)}) == 1

    def test_keys_are_spread(self) -> None:
        gpt = nested("gpt", A, B, C, D, strategy="round_robin", sticky="key")

        assert {Map(gpt, who=key(id=str(number))).names()[0] for number in range(100)} == set("abcd")

    def test_sessions_stick_and_those_that_name_none_are_balanced(self) -> None:
        there = Map(nested("gpt", A, B, strategy="round_robin", sticky="session"))

        assert len({there.names(session="s-1") for _ in range(4)}) == 1
        assert [there.names()[0] for _ in range(4)] == ["a", "b", "a", "b"]

    def test_the_same_session_of_another_key_is_another_session(self) -> None:
        gpt = nested("gpt", A, B, C, D, strategy="weighted", sticky="session")
        orders = {Map(gpt, who=key(id=str(number))).names(session="s-1") for number in range(50)}

        assert len(orders) > 5


class TestNestedAliases:
    def test_each_level_has_its_own_strategy_and_via_says_what_led_there(self) -> None:
        pool = nested("pool", B, C, strategy="round_robin")
        there = Map(nested("gpt", A, pool, strategy="round_robin"), pool)

        assert [there.names() for _ in range(6)] == ["abc", "bca", "acb", "cba", "abc", "bca"]
        assert via(there.route()) == {"a": [], "b": ["pool"], "c": ["pool"]}

    def test_a_level_takes_a_turn_only_when_a_request_begins_there(self) -> None:
        pool = nested("pool", B, C, strategy="round_robin")
        there = Map(nested("gpt", A, pool, strategy="weighted"), pool)

        firsts = [there.names()[0] for _ in range(8)]

        assert firsts == ["a", "b", "a", "c", "a", "b", "a", "c"]

    def test_a_deployment_that_is_reached_twice_counts_once_where_it_comes_first(self) -> None:
        pool = nested("pool", B, A)
        routed = Map(nested("gpt", A, pool), pool).route()

        assert via(routed) == {"a": [], "b": ["pool"]}

    def test_an_alias_that_the_key_may_not_use_is_as_if_it_were_not_there(self) -> None:
        pool = nested("pool", B, C)
        gpt = nested("gpt", pool, A)

        assert Map(gpt, pool, who=key(models=frozenset({"gpt"}))).names() == "a"
        with pytest.raises(NoTargetAvailableError):
            Map(nested("gpt", pool), pool, who=key(models=frozenset({"gpt"}))).route()

    def test_one_that_has_retired_is_left_out(self) -> None:
        pool = nested("pool", B, retires_at=-1.0)

        assert Map(nested("gpt", pool, A), pool).names() == "a"

    def test_one_whose_deployments_are_out_has_no_turn(self) -> None:
        pool = nested("pool", B, C)
        there = Map(nested("gpt", A, pool, strategy="round_robin"), pool, ill=[B, C])

        assert {there.names() for _ in range(4)} == {"a"}

    def test_a_nested_alias_is_as_busy_as_the_deployment_it_would_ask(self) -> None:
        pool = nested("pool", B, C, strategy="least_in_flight")
        there = Map(nested("gpt", A, pool, strategy="least_in_flight"), pool)
        there.router = Router(traffic=(traffic := there.router._traffic))
        traffic.began(A)
        traffic.began(B)

        assert there.names() == "cba"

    def test_an_alias_that_leads_back_to_itself_ends(self) -> None:
        gpt = nested("gpt", A)
        loop = nested("loop", gpt)
        gpt = replace(
            gpt, targets=(*gpt.targets, Target(None, alias=replace(loop, targets=(Target(None, alias=loop),))))
        )

        assert Map(gpt, loop).names() == "a"

    def test_staff_may_go_where_circuits_are_open_through_them_too(self) -> None:
        pool = nested("pool", B)
        there = Map(nested("gpt", pool, A), pool, who=key(may_bypass_health=True), ill=[B])

        assert [there.names(bypass_health=True), there.names()] == ["ba", "a"]


class TestNativeNames:
    def there(self, *aliases: Alias, models: set[str]) -> Map:
        there = Map(*aliases, who=key(models=frozenset(models)))
        there.snapshot = replace(there.snapshot, deployments=(A, B))
        return there

    def test_a_provider_s_own_model_is_reached_through_aliases_that_the_key_may_call(self) -> None:
        pool = nested("pool", A, B, rules=(rule("other"),))
        gpt = nested("gpt", pool, fallbacks=(Fallback("other"),))
        there = self.there(gpt, pool, nested("other", A), models={"gpt", "pool"})

        routed = there.route(B.model, provider=B.provider)

        assert (routed.alias.name, routed.alias.fallbacks, via(routed)) == ("gpt", (), {"b": ["pool"]})

    def test_and_not_through_others(self) -> None:
        pool = nested("pool", B)

        with pytest.raises(NotFoundError):
            self.there(nested("gpt", pool), pool, models={"gpt"}).route(B.model, provider=B.provider)


class TestRules:
    def test_the_first_rule_that_holds_decides(self) -> None:
        gpt = nested("gpt", A, rules=(rule("b", "false"), rule("c"), rule("d")))
        routed = Map(gpt, nested("b", B), nested("c", C), nested("d", D)).route()

        assert (routed.alias.name, routed.reached.name, via(routed)) == ("gpt", "c", {"c": ["c"]})

    def test_without_a_rule_that_holds_its_own_targets_answer(self) -> None:
        assert Map(nested("gpt", A, rules=(rule("b", "false"),)), nested("b", B)).route().via == {}

    def test_the_rules_of_the_alias_that_is_reached_are_looked_at_too(self) -> None:
        gpt = nested("gpt", A, rules=(rule("b"),))
        b = nested("b", B, rules=(rule("c"),))

        assert via(Map(gpt, b, nested("c", C)).route()) == {"c": ["b", "c"]}

    def test_rules_that_lead_in_a_circle_come_to_an_end(self) -> None:
        gpt = nested("gpt", A, rules=(rule("b"),))

        assert Map(gpt, nested("b", B, rules=(rule("gpt"),))).names() in {"a", "b"}

    def test_a_rule_that_leads_where_the_key_may_not_go_is_passed_over(self) -> None:
        gpt = nested("gpt", A, rules=(rule("b"), rule("c")))
        there = Map(gpt, nested("b", B), nested("c", C), who=key(models=frozenset({"gpt", "c"})))

        assert there.names() == "c"

    def test_a_rule_to_an_alias_that_is_gone_or_has_retired_is_passed_over(self) -> None:
        gpt = nested("gpt", A, rules=(rule("gone"), rule("old")))

        assert Map(gpt, nested("old", B, retires_at=-1.0)).names() == "a"

    def test_a_rule_that_cannot_be_evaluated_does_not_hold_and_is_noted(self) -> None:
        there = Map(nested("gpt", A, rules=(rule("b", "headers['x-team'] == 'red'"),)), nested("b", B))

        assert there.names() == "a"
        assert there.router.conditions.failures == {("gpt", "rule"): 1}
        assert there.router.conditions.reasons == {("gpt", "rule"): "there is no 'x-team'"}

    def test_what_is_used_of_budgets_is_asked_for_only_by_those_who_look_at_it(self) -> None:
        there = Map(nested("gpt", A, rules=(rule("b", "budget_used > 0.8"),)), nested("b", B))
        with pytest.raises(BudgetsNeededError):
            there.route()

        routes = [
            there.router.route(there.snapshot, there.key, asked(), now=0.0, budget_used=BudgetUsed(share))
            for share in (0.9, 0.5, None)
        ]

        assert [each.candidates[0].name for each in routes] == ["b", "a", "a"]

    def test_rules_of_nested_aliases_hold_as_well(self) -> None:
        pool = nested("pool", B, rules=(rule("c"),))

        assert via(Map(nested("gpt", A, pool), pool, nested("c", C)).route()) == {"a": [], "c": ["pool", "c"]}


class TestFallbacks:
    def test_each_cause_has_its_own_and_those_of_errors_serve_for_rate_limits_too(self) -> None:
        fallbacks = (
            Fallback("b", FallbackCause.ERROR),
            Fallback("c", FallbackCause.RATE_LIMIT),
            Fallback("d", FallbackCause.CONTEXT_TOO_LONG),
        )
        there = Map(nested("gpt", A, fallbacks=fallbacks), nested("b", B), nested("c", C), nested("d", D))

        assert {cause.value: there.instead("gpt", cause) for cause in FallbackCause} == {
            "error": "b",
            "rate_limit": "cb",
            "context_too_long": "d",
            "content_policy": "",
            "budget_exhausted": "",
        }

    def test_those_of_the_fallbacks_come_after_all_of_the_alias_s_own(self) -> None:
        there = Map(
            nested("gpt", A, fallbacks=(Fallback("b"), Fallback("d"))),
            nested("b", B, fallbacks=(Fallback("c"), Fallback("gpt"))),
            nested("c", C),
            nested("d", D),
        )
        found = there.fallbacks("gpt", FallbackCause.ERROR)

        assert found is not None
        assert via(found) == {"b": ["b"], "d": ["d"], "c": ["c"]}

    def test_what_was_tried_is_not_tried_again(self) -> None:
        there = Map(nested("gpt", A, fallbacks=(Fallback("b"),)), nested("b", A, B))

        assert there.instead("gpt", FallbackCause.ERROR, [A.id]) == "b"
        assert there.instead("gpt", FallbackCause.ERROR, [A.id, B.id]) == ""

    def test_a_fallback_that_the_key_may_not_use_is_left_out(self) -> None:
        there = Map(
            nested("gpt", A, fallbacks=(Fallback("b"), Fallback("c"))),
            nested("b", B),
            nested("c", C),
            who=key(models=frozenset({"gpt", "c"})),
        )

        assert there.instead("gpt", FallbackCause.ERROR) == "c"

    def test_they_answer_at_once_when_all_targets_are_out(self) -> None:
        there = Map(nested("gpt", A, fallbacks=(Fallback("b"),)), nested("b", B), ill=[A])
        routed = there.route()

        assert (routed.alias.name, via(routed)) == ("gpt", {"b": ["b"]})

    def test_those_that_are_out_themselves_are_waited_for_with_the_others(self) -> None:
        there = Map(nested("gpt", A, fallbacks=(Fallback("b"),)), nested("b", B), ill=[A, B])
        with pytest.raises(AllOutError) as caught:
            there.route()

        assert caught.value.deployments == (A, B)


NAMES = ["gpt", "x", "y", "z"]


@st.composite
def worlds(draw: st.DrawFn) -> Map:
    """Aliases over one another in any way that has no circle, a key with some of them, and some who are ill."""
    made: dict[str, Alias] = {}
    for name in reversed(NAMES):
        known = [*made.values()]
        options: list[Deployment | Alias] = [A, B, C, D, *known]
        picks = draw(st.lists(st.integers(0, len(options) - 1), min_size=1, max_size=4))
        targets = [options[pick] for pick in picks]
        others = draw(st.lists(st.sampled_from(NAMES), max_size=2))
        made[name] = replace(
            nested(name, *targets),
            strategy=draw(st.sampled_from(["priority", "weighted", "round_robin", "least_in_flight"])),
            rules=tuple(rule(other, draw(st.sampled_from(["true", "false"]))) for other in others),
            fallbacks=tuple(Fallback(other) for other in draw(st.lists(st.sampled_from(NAMES), max_size=2))),
        )
    models = draw(st.none() | st.frozensets(st.sampled_from(NAMES)).map(lambda names: names | {"gpt"}))
    ill = draw(st.lists(st.sampled_from([A, B, C, D]), max_size=3))
    return Map(*made.values(), who=key(models=models), ill=ill)


@given(worlds())
def test_nobody_is_asked_twice_or_while_out_or_through_what_the_key_may_not_use(there: Map) -> None:
    for _ in range(3):
        try:
            routed = there.route()
        except GatewayError:
            return
        check(there, routed)
        again = there.fallbacks("gpt", FallbackCause.ERROR, [each.id for each in routed.candidates])
        if again is not None:
            check(there, again)
            assert not {each.id for each in again.candidates} & {each.id for each in routed.candidates}


@given(worlds(), st.data())
def test_no_counter_is_taken_twice_and_none_on_the_way_is_left_out(there: Map, data: st.DataObject) -> None:
    limits = {name: Limit(f"limit:{name}", "5 a minute", "model", 5, 5) for name in NAMES}
    shared = Limit("limit:shared", "5 a minute", "key", 5, 5)
    each_model = Limit("limit:each", "5 a minute", "key", 5, 5, each="model")
    budgets = {name: BudgetRule(number, name, "model", name, "day", 1, "UTC") for number, name in enumerate(NAMES)}
    there.snapshot = replace(
        there.snapshot,
        aliases={name: with_rules(each, limits, budgets) for name, each in there.snapshot.aliases.items()},
    )
    for_one = structs.replace(shared, counter="limit:one", model=data.draw(st.sampled_from(NAMES)))
    there.key = structs.replace(there.key, limits=(shared, each_model, for_one), budgets=(budgets["x"],))
    try:
        routed = there.route()
    except GatewayError:
        return

    book, request = RuleBook(), asked()
    rules = book.through(book.of(request, there.key, routed.alias), request, routed.via)

    for each in routed.candidates:
        added = rules.added.get(each.id, NOTHING_ADDED)
        counters = [limit.counter for limit in (*rules.limits, *added.limits)]
        payers = [budget.id for budget in (*rules.budgets, *added.budgets)]
        names = {routed.alias.name, *[hop.name for hop in routed.via.get(each.id, ())]}
        assert len(set(counters)) == len(counters)
        assert len(set(payers)) == len(payers)
        assert {f"limit:{name}" for name in names} | {f"limit:each:model:{name}" for name in names} <= set(counters)
        assert ("limit:one" in counters) == (for_one.model in names)
        assert {budgets[name].id for name in names} <= set(payers)


def with_rules(alias: Alias, limits: dict[str, Limit], budgets: dict[str, BudgetRule]) -> Alias:
    """The alias, and those that are its targets, each with a limit and a budget of its own."""
    targets = tuple(
        replace(target, alias=with_rules(target.alias, limits, budgets)) if target.alias else target
        for target in alias.targets
    )
    return replace(alias, targets=targets, limits=(limits[alias.name],), budgets=(budgets[alias.name],))


def check(there: Map, routed: Routed) -> None:
    ids = [each.id for each in routed.candidates]
    assert ids
    assert len(set(ids)) == len(ids)
    assert set(routed.via) <= set(ids)
    assert all(each.id not in there.router._health.ill for each in routed.candidates)  # type: ignore[attr-defined]
    for each in routed.candidates:
        through = routed.via.get(each.id, ())
        allowed = there.key.models
        assert allowed is None or {hop.name for hop in through} <= allowed
        last = through[-1] if through else routed.alias
        assert any(target.deployment is each for target in last.targets)
