"""The page of mirrored requests and their copies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from providers.models import ModelAlias
from tests.llmgateway.admin.world import World, create_record

pytestmark = pytest.mark.django_db


def page(client: Client, query: str = "") -> str:
    response = client.get(f"{reverse('admin:billing_usagerecord_mirrors')}{query}")
    assert response.status_code == 200
    return response.content.decode()


def mirrored(
    world: World, record_id: str, *, at: Any = None, copy: dict[str, Any] | None = None, **values: Any
) -> None:
    create_record(world.key, record_id=record_id, at=at, **values)
    made = create_record(world.key, record_id=f"{record_id}_mir", at=at, **{"mirror_of": record_id, **(copy or {})})
    type(made).objects.filter(pk=made.pk).update(key_id="mirror", key_name="mirror", team_id=0, alias="large")


def test_both_sides_are_shown_with_sums_and_differences(owner: Client, world: World) -> None:
    mirrored(world, "req-a", copy={"cost_pico_usd": 540_000_000, "duration_us": 1_218_000, "output": 300})

    text = page(owner)

    assert "small and large" in text
    assert "812 ms" in text
    assert "1,218 ms" in text
    assert "+50 %" in text
    assert "$0.00027" in text
    assert "$0.00054" in text
    assert "+100 %" in text
    assert "platform-key, platform" in text
    for record_id in ("req-a", "req-a_mir"):
        assert reverse("admin:billing_usagerecord_change", args=[record_id]) in text


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", {"req-a_mir", "req-b_mir"}),
        ("?ended=differ", {"req-b_mir"}),
        ("?ended=copy_failed", {"req-b_mir"}),
        ("?ended=original_failed", set()),
        ("?alias=small&mirror=large", {"req-a_mir", "req-b_mir"}),
        ("?alias=elsewhere", set()),
        ("?period=hour", {"req-a_mir", "req-b_mir"}),
        ("?period=week", {"req-a_mir", "req-b_mir", "req-old_mir"}),
        ("?period=%00&p=x&ended=nonsense", {"req-a_mir", "req-b_mir"}),
    ],
)
def test_filters(owner: Client, world: World, query: str, shown: set[str]) -> None:
    mirrored(world, "req-a")
    mirrored(world, "req-b", copy={"status": "failed", "error_type": "server_error"})
    mirrored(world, "req-old", at=timezone.now() - timedelta(days=3))

    text = page(owner, query)

    assert {each for each in ("req-a_mir", "req-b_mir", "req-old_mir") if f"/{each}/" in text} == shown
    assert ("No mirrored request of this period is like that" in text) == (not shown)


def test_sums_are_of_all_however_they_ended(owner: Client, world: World) -> None:
    mirrored(world, "req-a")
    mirrored(world, "req-b", copy={"status": "failed"})

    text = page(owner, "?ended=copy_failed")

    assert "2 requests, each asked of both" in text
    assert "1 (50.0 %)" in text


def test_pages(owner: Client, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.admin.mirrors.PAIRS_PER_PAGE", 1)
    mirrored(world, "req-a", at=timezone.now() - timedelta(minutes=2))
    mirrored(world, "req-b", at=timezone.now() - timedelta(minutes=1))

    first, second = page(owner, "?alias=small"), page(owner, "?alias=small&p=2")

    assert "?alias=small&amp;p=2" in first
    assert ["req-b_mir/" in each for each in (first, second)] == [True, False]
    assert "2 requests, each asked of both" in second


def test_without_copies_it_says_what_to_do(owner: Client, world: World) -> None:
    assert "No alias is mirrored" in page(owner)

    world.alias.mirror_alias, world.alias.mirror_percent = ModelAlias.objects.create(name="large"), 2.5
    world.alias.save()

    assert "2.5 % to large" in page(owner)


def test_a_copy_whose_request_is_gone_is_shown_alone(owner: Client, world: World) -> None:
    mirrored(world, "req-a")
    world.record.__class__.objects.filter(pk="req-a").delete()

    text = page(owner)

    assert "The request is in the ledger no longer, or not yet." in text
    assert "req-a_mir" in text


def test_who_may_see_the_ledger_sees_it_and_nobody_else(auditor: Client, newcomer: Client, world: World) -> None:
    path = reverse("admin:billing_usagerecord_mirrors")

    assert auditor.get(path).status_code == 200
    assert newcomer.get(path).status_code == 403
    assert Client().get(path).status_code == 302
