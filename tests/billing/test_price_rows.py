"""Prices as rows: what cannot be meant is refused before it can be charged."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.exceptions import ValidationError

from billing.price_models import DEAREST_REQUEST, DEAREST_TOKEN, Price
from providers.models import Provider


@pytest.fixture
def provider(db: None) -> Provider:
    return Provider.objects.create(name="acme", adapter="openai")


@pytest.mark.parametrize("field", ["input", "output", "reasoning", "cache_read"])
def test_a_price_that_must_be_a_slip_is_refused_by_name(provider: Provider, field: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    price = Price(
        **{"provider": provider, "model": "m", "effective_from": moment, "input": 1, field: DEAREST_TOKEN + 1}
    )

    with pytest.raises(ValidationError, match="check the unit") as caught:
        price.full_clean()

    assert set(caught.value.message_dict) == {field}


def test_the_dearest_prices_are_allowed(provider: Provider) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    Price(
        provider=provider,
        model="m",
        effective_from=moment,
        input=DEAREST_TOKEN,
        output=DEAREST_TOKEN,
        request=DEAREST_REQUEST,
    ).full_clean()
