"""What may be written of aliases, and what the messages say otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError

from providers.adapters.dialects import _parameters
from providers.alias_models import refuse_canaries_beyond_all
from providers.models import AliasFallback, AliasRule, AliasTarget, Deployment, ModelAlias, Provider
from providers.validators import DECIDED_ELSEWHERE

pytestmark = pytest.mark.django_db


def _alias(name: str, **columns: Any) -> ModelAlias:
    return ModelAlias.objects.create(name=name, **columns)


def _refused(row: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    return "; ".join(caught.value.messages)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"parameter_defaults": [1]}, "Write fields with their values"),
        ({"parameter_defaults": {"model": "x"}}, "model cannot be set here"),
        ({"parameter_overrides": {"messages": []}}, "messages cannot be set here"),
        ({"parameter_overrides": {"stream": True}}, "stream cannot be set here"),
        ({"first_token_timeout_s": 0}, "greater than or equal to 0.001"),
        ({"total_timeout_s": float("nan")}, "Write a number"),
        ({"retry_attempts": 21}, "less than or equal to 20"),
        ({"cache_ttl_s": 0}, "greater than or equal to 1"),
        ({"cache_ttl_s": 60, "cache_mode": "semantic"}, "Choose the alias that turns questions into vectors"),
        ({"cache_similarity": 1.5}, "less than or equal to 1"),
        ({"hedge_max_pico_usd": -1}, "greater than or equal to 0"),
        ({"mirror_percent": 101}, "less than or equal to 100"),
        ({"strategy": "by_mood"}, "is not a valid choice"),
    ],
)
def test_what_makes_no_sense_is_refused(columns: dict[str, Any], message: str) -> None:
    assert message in _refused(ModelAlias(name="a", **columns))


def test_a_mirror_without_a_share_mirrors_nothing() -> None:
    assert "Say how many percent" in _refused(ModelAlias(name="a", mirror_alias=_alias("b")))


@pytest.mark.parametrize("path", ["models", "//elsewhere.example/", "/a b", "/a#b", ""])
def test_a_probe_stays_below_the_base_url(path: str) -> None:
    provider = Provider.objects.create(name="acme", adapter="openai")

    row = Deployment(name="d", provider=provider, model="m", probe_path=path)

    assert "probe_path" in _fields(row)


def _fields(row: Any) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    return set(caught.value.error_dict)


def test_what_no_alias_sets_is_what_no_dialect_takes_from_one() -> None:
    assert DECIDED_ELSEWHERE == _parameters._NEVER


class TestCircles:
    """Each kind of link may close one."""

    @pytest.fixture
    def chain(self) -> tuple[ModelAlias, ModelAlias, ModelAlias]:
        first, second, third = _alias("first"), _alias("second"), _alias("third")
        AliasTarget.objects.create(alias=first, target_alias=second)
        AliasFallback.objects.create(alias=second, use=third)
        return first, second, third

    def test_a_target(self, chain: tuple[ModelAlias, ...]) -> None:
        message = _refused(AliasTarget(alias=chain[2], target_alias=chain[0]))

        assert "third → first → second → third is a circle: no alias may lead back to itself." in message

    def test_a_rule(self, chain: tuple[ModelAlias, ...]) -> None:
        message = _refused(AliasRule(alias=chain[2], name="r", when="true", use=chain[0]))

        assert "third → first → second → third" in message

    def test_a_fallback(self, chain: tuple[ModelAlias, ...]) -> None:
        assert "third → second → third" in _refused(AliasFallback(alias=chain[2], use=chain[1]))

    def test_a_mirror(self, chain: tuple[ModelAlias, ...]) -> None:
        third = chain[2]
        third.mirror_alias, third.mirror_percent = chain[0], 1

        assert "third → first → second → third" in _refused(third)

    def test_the_embeddings_of_a_cache(self, chain: tuple[ModelAlias, ...]) -> None:
        third = chain[2]
        third.cache_embeddings = third

        assert "third → third is a circle" in _refused(third)

    def test_what_is_switched_off_counts_too(self) -> None:
        first, second = _alias("first"), _alias("second", enabled=False)
        AliasRule.objects.create(alias=first, name="r", when="true", use=second, enabled=False)

        assert "second → first → second" in _refused(AliasFallback(alias=second, use=first))

    def test_other_ways_to_the_same_place_are_none(self, chain: tuple[ModelAlias, ...]) -> None:
        AliasFallback(alias=chain[0], use=chain[2]).full_clean()
        AliasRule(alias=chain[0], name="r", when="request.stream", use=chain[1]).full_clean()

    def test_saving_the_same_link_again_is_none(self, chain: tuple[ModelAlias, ...]) -> None:
        chain[0].targets.get().full_clean()


def test_a_target_is_a_deployment_or_an_alias() -> None:
    alias, other = _alias("a"), _alias("b")
    provider = Provider.objects.create(name="acme", adapter="openai")
    deployment = Deployment.objects.create(name="d", provider=provider, model="m")

    assert "Choose a deployment or an alias" in _refused(AliasTarget(alias=alias))
    assert "one of the two" in _refused(AliasTarget(alias=alias, deployment=deployment, target_alias=other))
    with pytest.raises(IntegrityError):
        AliasTarget.objects.create(alias=alias)


def test_canaries_share_all_requests_at_most() -> None:
    refuse_canaries_beyond_all([33.3, 33.3, 33.4])

    with pytest.raises(ValidationError, match=r"The canaries get 100\.5 percent"):
        refuse_canaries_beyond_all([60, 40.5])


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("request.", "This is not an expression"),
        ("request.colour == 'red'", "There is no `request.colour`"),
        ("1 + 1", "a condition must be true or false"),
        ("true || " * 2_000 + "true", "at most 10000 characters"),
    ],
)
def test_a_condition_must_be_one(when: str, message: str) -> None:
    row = AliasRule(alias=_alias("a"), name="r", when=when, use=_alias("b"))

    assert message in _refused(row)
