"""What models can do: seeded from the installed data, never over what somebody wrote."""

from __future__ import annotations

from datetime import date
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from llmgateway.config_loader import load_snapshot
from llmgateway.pipeline.snapshot import Capabilities
from providers.catalogue import apply_catalogue_updates, catalogue_updates
from providers.models import AliasTarget, CatalogueEntry, Deployment, ModelAlias, Provider

pytestmark = pytest.mark.django_db


@pytest.fixture
def deployment() -> Deployment:
    provider = Provider.objects.create(name="acme", adapter="openai", base_url="https://api.openai.com/v1")
    made = Deployment.objects.create(name="mini", provider=provider, model="gpt-4o-mini")
    AliasTarget.objects.create(alias=ModelAlias.objects.create(name="small"), deployment=made)
    return made


def test_models_in_use_get_what_the_installed_data_says(deployment: Deployment) -> None:
    apply_catalogue_updates(catalogue_updates())

    entry = CatalogueEntry.objects.get()
    assert (entry.provider, entry.model, entry.context_window) == (deployment.provider, "gpt-4o-mini", 128_000)
    assert entry.source.startswith("genai-prices ")
    assert catalogue_updates() == []


def test_an_entry_of_one_s_own_is_never_touched(deployment: Deployment) -> None:
    CatalogueEntry.objects.create(provider=deployment.provider, model="gpt-4o-mini", context_window=5)

    assert catalogue_updates() == []


def test_an_old_entry_of_the_catalogue_is_brought_up_to_date(deployment: Deployment) -> None:
    CatalogueEntry.objects.create(
        provider=deployment.provider, model="gpt-4o-mini", context_window=5, tools=True, source="genai-prices 0.0.1"
    )

    apply_catalogue_updates(catalogue_updates())

    entry = CatalogueEntry.objects.get()
    assert (entry.context_window, entry.tools) == (128_000, True)


def test_the_command_shows_first_and_writes_when_told(deployment: Deployment) -> None:
    shown = StringIO()
    call_command("update_prices", stdout=shown)
    before = CatalogueEntry.objects.count()
    call_command("update_prices", "--apply", stdout=StringIO())

    assert "+ acme/gpt-4o-mini: context window 128000" in shown.getvalue()
    assert (before, CatalogueEntry.objects.count()) == (0, 1)


def test_deployments_know_what_their_model_can_do(deployment: Deployment) -> None:
    CatalogueEntry.objects.create(
        provider=deployment.provider,
        model="gpt-4o-mini",
        context_window=128_000,
        max_output_tokens=16_384,
        input_modalities=["text", "image"],
        tools=True,
        deprecated_on=date(2027, 1, 31),
    )

    (ready,) = load_snapshot().deployments

    assert ready.max_output_tokens == 16_384
    assert ready.capabilities == Capabilities(
        128_000, 16_384, ("text", "image"), (), tools=True, reasoning=None, deprecated_on="2027-01-31"
    )


def test_what_a_deployment_says_itself_wins(deployment: Deployment) -> None:
    CatalogueEntry.objects.create(provider=deployment.provider, model="gpt-4o-mini", max_output_tokens=16_384)
    Deployment.objects.update(max_output_tokens=100)

    assert load_snapshot().deployments[0].max_output_tokens == 100


def test_an_entry_that_cannot_be_read_says_so_and_harms_nobody(deployment: Deployment) -> None:
    CatalogueEntry.objects.create(provider=deployment.provider, model="gpt-4o-mini", max_output_tokens=5)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE providers_catalogueentry SET input_modalities = '\"text\"'")

    snapshot = load_snapshot()

    assert snapshot.deployments[0].capabilities == Capabilities()
    assert "catalogue entry gpt-4o-mini: its modalities cannot be read" in str(snapshot.problems[0])


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"input_modalities": ["smell"]}, "input_modalities"), ({"output_modalities": ["text", "text"]}, "output_modalities"),
     ({"context_window": 5, "max_output_tokens": 6}, "max_output_tokens"), ({"context_window": 0}, "context_window")],
)  # fmt: skip
def test_entries_that_make_no_sense_are_refused(deployment: Deployment, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        CatalogueEntry(provider=deployment.provider, model="m", **wrong).full_clean()

    assert list(raised.value.message_dict) == [field]


def test_what_is_changed_in_the_admin_is_one_s_own(deployment: Deployment, admin_client: Client) -> None:
    entry = CatalogueEntry.objects.create(
        provider=deployment.provider, model="gpt-4o-mini", context_window=5, source="genai-prices 0.0.1"
    )
    url = reverse("admin:providers_catalogueentry_change", args=[entry.pk])

    admin_client.post(
        url,
        {"provider": deployment.provider.pk, "model": "gpt-4o-mini", "context_window": "7", "tools": "true",
         "reasoning": "unknown", "input_modalities": ["text", "image"]},
    )  # fmt: skip

    entry.refresh_from_db()
    assert (entry.context_window, entry.source, entry.tools, entry.reasoning) == (7, "", True, None)
    assert entry.input_modalities == ["text", "image"]
    pages = [
        reverse("admin:providers_deployment_change", args=[deployment.pk]),
        reverse("admin:providers_modelalias_change", args=[ModelAlias.objects.get().pk]),
        reverse("admin:providers_catalogueentry_changelist"),
    ]
    for page in pages:
        assert "7 tokens of context; takes text, image; tools" in admin_client.get(page).content.decode(), page
