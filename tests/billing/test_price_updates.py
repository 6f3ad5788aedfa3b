"""Bringing prices up to the catalogue: shown first, added as new rows, and never over a price that somebody entered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command

from billing import price_updates as module
from billing.catalogue import BEGINNING, CataloguePrice
from billing.models import Price
from billing.price_updates import apply_price_updates, price_updates
from providers.models import Deployment, Provider

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SOURCE = "genai-prices 9.9.9"


def listed(monkeypatch: pytest.MonkeyPatch, *versions: tuple[datetime, int]) -> None:
    """The catalogue lists the model with these inputs from these moments on."""

    def prices(_base_url: str, name: str) -> list[CataloguePrice]:
        columns = ("cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input", "reasoning")
        rest: dict[str, int | None] = dict.fromkeys((*columns, "audio_output")) | {"output": 0, "request": 0}
        return [CataloguePrice(name, moment, rest | {"input": figure}, SOURCE) for moment, figure in versions]

    monkeypatch.setattr(module, "prices_of_model", prices)


@pytest.fixture
def provider() -> Provider:
    provider = Provider.objects.create(name="openai", adapter="openai")
    Deployment.objects.create(name="d", provider=provider, model="m")
    Deployment.objects.create(name="e", provider=provider, model="m")
    return provider


def stored(provider: Provider, figure: int, *, source: str = SOURCE, at: datetime = BEGINNING) -> Price:
    return Price.objects.create(provider=provider, model="m", input=figure, effective_from=at, source=source)


def test_a_changed_price_becomes_a_new_row_from_now_on(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    old = stored(provider, 1_000_000)
    listed(monkeypatch, (BEGINNING, 2_000_000))

    updates = price_updates(NOW)
    assert [str(update) for update in updates] == ["~ openai/m from 2026-06-01 12:00: input 1 → 2"]
    assert Price.objects.count() == 1
    apply_price_updates(updates)

    assert [(row.input, row.effective_from) for row in Price.objects.order_by("effective_from")] == [
        (1_000_000, old.effective_from),
        (2_000_000, NOW),
    ]
    assert price_updates(NOW + timedelta(days=1)) == []


def test_a_model_without_a_price_gets_one(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, (BEGINNING, 2_000_000))

    assert [str(update) for update in price_updates(NOW)] == ["+ openai/m from 2026-06-01 12:00: input 2, output 0"]


def test_a_price_that_somebody_entered_is_kept(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(provider, 1_000_000)
    stored(provider, 500_000, source="contract", at=NOW - timedelta(days=9))
    listed(monkeypatch, (BEGINNING, 2_000_000), (NOW + timedelta(days=9), 3_000_000))

    assert price_updates(NOW) == []


def test_a_price_of_the_future_is_added_for_its_day(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(provider, 1_000_000)
    new_year = datetime(2027, 1, 1, tzinfo=UTC)
    listed(monkeypatch, (BEGINNING, 1_000_000), (new_year, 3_000_000))

    updates = price_updates(NOW)
    apply_price_updates(updates)

    assert [(update.row.effective_from, update.row.input) for update in updates] == [(new_year, 3_000_000)]
    assert price_updates(NOW) == []


def test_a_model_that_is_not_listed_is_left_alone(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(provider, 1_000_000)
    listed(monkeypatch)

    assert price_updates(NOW) == []


def test_the_command_shows_before_it_applies(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(provider, 1_000_000)
    listed(monkeypatch, (BEGINNING, 2_000_000))

    def output(**options: bool) -> list[str]:
        out = StringIO()
        call_command("update_prices", stdout=out, **options)
        return out.getvalue().splitlines()

    shown = output()
    assert "input 1 → 2" in shown[0]
    assert "`--apply`" in shown[1]
    assert Price.objects.count() == 1
    assert "Added 1 price" in output(apply=True)[1]
    assert Price.objects.count() == 2
    assert "or your own" in output()[0]


def test_the_shipped_catalogue_agrees_with_itself(provider: Provider) -> None:
    """What an update adds, a second one does not add again."""
    Deployment.objects.create(name="f", provider=provider, model="gpt-4o-mini")
    apply_price_updates(price_updates())

    assert Price.objects.get(model="gpt-4o-mini").input == 150_000
    assert price_updates() == []
