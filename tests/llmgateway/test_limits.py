"""What a rate limit may say: refused by field before it is saved, and by the database if somebody writes past that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from llmgateway.limit_terms import limit_name, reset_seconds, reset_text, start_number
from llmgateway.models import RateLimit
from llmgateway.services import limit_create, limit_update
from providers.models import Deployment, ModelAlias, Provider
from tests.cast import Cast


def _refusals(**columns: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        limit_create(**{"amount": 1, **columns})
    return caught.value.message_dict


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("columns", "field", "message"),
    [
        ({"metric": "bananas"}, "metric", "not a valid choice"),
        ({"per": "decade"}, "per", "not a valid choice"),
        ({"per": ""}, "per", "Choose a period: minute, hour"),
        ({"metric": "concurrency", "per": "minute"}, "per", "Concurrent requests have no period"),
        ({"amount": -1}, "amount", "greater than or equal to 0"),
        ({"amount": 10**12 + 1}, "amount", "less than or equal to"),
        ({"per": "day", "burst": 3}, "burst", "Only a limit per minute has a burst"),
        ({"per": "day", "starts_on": "monday"}, "starts_on", "Only a week or a month begins on a day"),
        ({"per": "week", "starts_on": "someday"}, "starts_on", "write one of monday"),
        ({"per": "month", "starts_on": "29"}, "starts_on", "from 1 to 28"),
        ({"per": "day", "reset_seconds": 3600}, "reset_seconds", "Only a limit in total is reset"),
        ({"per": "total", "reset_seconds": 1}, "reset_seconds", "greater than or equal to 60"),
        ({"per": "total", "reset_anchor": datetime(2026, 1, 1, tzinfo=UTC)}, "reset_anchor", "Say after which time"),
        ({"oversize": "first_in_window"}, "oversize", "Only a limit of tokens"),
        ({"each": "planet"}, "each", "not a valid choice"),
        ({"each": "model", "model": "small"}, "model", "It already counts for each model"),
        ({"model": "two words"}, "model", "not a usable name"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_field(columns: dict[str, Any], field: str, message: str) -> None:
    assert message in _refusals(**columns)[field][0]


@pytest.fixture
def places(db: None) -> dict[str, Any]:
    provider = Provider.objects.create(name="openai", adapter="openai")
    deployment = Deployment.objects.create(name="small-main", provider=provider, model="small-1")
    return {"provider": provider, "deployment": deployment, "alias": ModelAlias.objects.create(name="small")}


def test_a_limit_has_one_owner(cast: Cast, places: dict[str, Any]) -> None:
    refusals = _refusals(team=cast.platform, provider=places["provider"])

    assert refusals["provider"] == ["It already belongs to a team; leave one of the two empty."]
    with pytest.raises(IntegrityError), transaction.atomic():
        RateLimit.objects.create(amount=1, team=cast.platform, provider=places["provider"])


@pytest.mark.parametrize("place", ["provider", "deployment", "alias"])
def test_only_who_asks_has_limits_for_one_model_or_for_each(places: dict[str, Any], place: str) -> None:
    owner = {place: places[place]}

    assert "each" in _refusals(each="ip", **owner)
    assert "model" in _refusals(model="small", **owner)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "columns",
    [
        {"metric": "concurrency", "per": "minute"},
        {"metric": "requests", "per": ""},
        {"per": "day", "burst": 1},
        {"per": "day", "reset_seconds": 60},
        {"per": "minute", "starts_on": "monday"},
    ],
)
def test_the_database_refuses_it_too(columns: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        RateLimit.objects.create(amount=1, **columns)


@pytest.mark.parametrize("owner", ["key", "team", "provider", "deployment", "alias", "everyone"])
def test_a_limit_stands_once_for_each_owner(cast: Cast, places: dict[str, Any], owner: str) -> None:
    owners: dict[str, dict[str, Any]] = {
        "key": {"key": cast.platform_key}, "team": {"team": cast.platform}, "everyone": {},
        **{name: {name: place} for name, place in places.items()},
    }  # fmt: skip
    for columns in owners.values():
        limit_create(metric="tokens", per="day", amount=5, **columns)

    refusals = _refusals(metric="tokens", per="day", **owners[owner])

    assert "There is a limit of the same metric" in refusals["__all__"][0]


def test_a_trial_in_shadow_and_rules_of_one_model_stand_beside_it(cast: Cast, places: dict[str, Any]) -> None:
    for columns in ({}, {"shadow": True}, {"model": "small"}, {"each": "ip"}, {"each": "end_user"}):
        limit_create(key=cast.platform_key, amount=5, **columns)

    assert cast.platform_key.limits.count() == 5


@pytest.mark.parametrize(
    ("known", "listed"),
    [
        ([], "nor any other"),
        (["small", "large"], "There are large, small."),
        ([f"m{number:02}" for number in range(12)], "m08, m09 and more."),
    ],
)
def test_a_limit_for_a_model_that_does_not_exist_says_which_do(cast: Cast, known: list[str], listed: str) -> None:
    """It would count nothing, and nobody would notice."""
    ModelAlias.objects.bulk_create(ModelAlias(name=name) for name in known)

    refusal = _refusals(key=cast.platform_key, model="smal")["model"][0]

    assert "There is no model alias smal" in refusal
    assert listed in refusal


def test_a_limit_that_outlived_its_model_can_be_switched_off(cast: Cast, places: dict[str, Any]) -> None:
    limit = limit_create(key=cast.platform_key, amount=5, model="small")
    ModelAlias.objects.all().delete()

    limit_update(limit, enabled=False)
    with pytest.raises(ValidationError, match="There is no model alias large"):
        limit_update(limit, model="large")

    assert not RateLimit.objects.get().enabled


def test_an_edit_keeps_the_row(cast: Cast) -> None:
    limit = limit_create(key=cast.platform_key, amount=5)

    limit_update(limit, amount=7, burst=2)

    row = RateLimit.objects.get()
    assert (row.pk, row.amount, row.burst) == (limit.pk, 7, 2)


@pytest.mark.django_db
def test_a_limit_is_called_what_people_read(cast: Cast) -> None:
    limit = limit_create(amount=30, per="total", metric="output_tokens", reset_seconds=86_400 * 30, shadow=True)

    assert str(limit) == "30 output tokens per 30d (shadow)"


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        (("requests", "minute", 60), "60 requests per minute"),
        (("requests", "minute", 1), "1 request per minute"),
        (("concurrency", "", 3), "3 concurrent requests"),
        (("tokens", "total", 1_000_000), "1,000,000 tokens in total"),
        (("input_tokens", "week", 0), "0 input tokens per week"),
    ],
)
def test_names_are_for_people(terms: tuple[str, str, int], name: str) -> None:
    assert limit_name(*terms) == name


def test_names_say_for_whom_and_for_which_model() -> None:
    assert limit_name("requests", "day", 5, model="coder") == "5 requests per day of coder"
    assert limit_name("requests", "day", 5, each="end_user") == "5 requests per day for each end user"
    assert limit_name("tokens", "total", 5, reset_s=43_200) == "5 tokens per 12h"


@pytest.mark.parametrize("text", ["15m", "12h", "30d", "2400h"])
def test_time_spans_are_read_exactly(text: str) -> None:
    assert reset_seconds(reset_text(reset_seconds(text))) == reset_seconds(text)


@pytest.mark.parametrize("text", ["", "soon", "0d", "-1d", "1.5h", "30", "1y", "99999d"])
def test_what_is_no_time_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time span|is too long"):
        reset_seconds(text)


def test_weeks_and_months_begin_on_a_day() -> None:
    assert (start_number("week", "sunday"), start_number("month", "28"), start_number("week", "")) == (7, 28, 0)
