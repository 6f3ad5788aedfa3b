"""Reporters, deliveries and alerts in the admin: secrets are write-only, dead letters can be sent again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from billing.models import Alert, Delivery, UsageReporter
from tests.billing.reporters.receiver import SECRET, Receiver
from tests.llmgateway.admin.world import HEADER_SECRET, SIGNING_SECRET, World

pytestmark = pytest.mark.django_db

LIST = "admin:billing_usagereporter_changelist"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    running.start()
    yield running
    running.stop()


def _page(name: str, *args: Any) -> str:
    return reverse(f"admin:billing_{name}", args=args)


def _filled(**values: Any) -> dict[str, Any]:
    return {
        "name": "crm", "kind": "webhook", "url": "http://127.0.0.1:9/usage", "allow_private_network": "on",
        "enabled": "on", "reports_usage": "on", "api_key_field": "id", "includes_cost": "on", "batch_size": "1",
        "secret": "", "headers": "", **values,
    }  # fmt: skip


def _errors(response: Any) -> dict[str, list[str]]:
    return {name: list(map(str, errors)) for name, errors in response.context["adminform"].form.errors.items()}


def test_a_new_webhook_gets_a_secret_that_is_shown_once(owner: Client, world: World) -> None:
    answer = owner.post(_page("usagereporter_add"), _filled())

    reporter = UsageReporter.objects.get(name="crm")
    secret = reporter.stored_secret()
    assert secret.startswith("whsec_")
    assert secret in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]
    assert secret not in owner.get(_page("usagereporter_change", reporter.pk)).content.decode()


def test_stored_secrets_are_on_no_page(owner: Client, world: World) -> None:
    reporter = UsageReporter.objects.get(name="invoicing")
    for url in (
        reverse(LIST), _page("usagereporter_change", reporter.pk), _page("usagereporter_history", reporter.pk),
        _page("usagereporter_send_test", reporter.pk), _page("delivery_change", Delivery.objects.get().pk),
        reverse("admin:auditlog_logentry_changelist"),
    ):  # fmt: skip
        page = owner.get(url).content.decode()

        for hidden in (SIGNING_SECRET, HEADER_SECRET, reporter.encrypted_secret, reporter.encrypted_headers):
            assert hidden not in page, url
    page = owner.get(_page("usagereporter_change", reporter.pk)).content.decode()
    assert "Authorization" in page
    assert "in-the-url" not in owner.get(reverse(LIST)).content.decode()


def test_empty_fields_keep_secrets_and_others_replace_them(owner: Client, world: World) -> None:
    reporter = UsageReporter.objects.get(name="invoicing")
    url = _page("usagereporter_change", reporter.pk)

    owner.post(url, _filled(name="renamed"))
    reporter.refresh_from_db()
    assert (reporter.name, reporter.stored_secret()) == ("renamed", SIGNING_SECRET)
    assert reporter.stored_headers() == {"Authorization": HEADER_SECRET}

    owner.post(url, _filled(secret=SECRET, headers="X-Tenant: acme\nX-Token: env:TOKEN"))
    reporter.refresh_from_db()
    assert reporter.stored_secret() == SECRET
    assert reporter.stored_headers() == {"X-Tenant": "acme", "X-Token": "env:TOKEN"}

    owner.post(url, _filled(headers="-"))
    reporter.refresh_from_db()
    assert reporter.stored_headers() == {}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"allow_private_network": ""}, "url", "private network"),
        ({"url": "https://user:pw@example.org/"}, "url", "Leave user, password"),
        ({"url": "example.org"}, "url", "begins with https"),
        ({"secret": "short"}, "secret", "whsec_"),
        ({"headers": "no colon"}, "headers", "one header a line"),
        ({"headers": "Content-Type: text/plain"}, "headers", "set by the gateway"),
        ({"headers": "webhook-id: 1"}, "headers", "set by the gateway"),
        ({"batch_size": "501"}, "batch_size", "500"),
        ({"kind": "database", "url": "postgres://bill:pw@db.example.org/usage"}, "url", "it is the secret"),
        ({"kind": "database", "url": "sqlite:////tmp/x", "reports_budgets": "on"}, "reports_budgets", "webhooks"),
    ],
)
def test_errors_stand_at_their_field(
    owner: Client, world: World, changes: dict[str, str], field: str, message: str
) -> None:
    answer = owner.post(_page("usagereporter_add"), _filled(**changes))

    assert answer.status_code == 200
    assert message in " ".join(_errors(answer)[field])
    assert not UsageReporter.objects.filter(name="crm").exists()


def test_a_test_event_is_sent_at_once(owner: Client, world: World, receiver: Receiver) -> None:
    owner.post(_page("usagereporter_add"), _filled(url=receiver.url, secret=SECRET))
    url = _page("usagereporter_send_test", UsageReporter.objects.get(name="crm").pk)
    assert "Posts an event" in owner.get(url).content.decode()
    assert receiver.received == []

    assert "The receiver took the event" in owner.post(url).content.decode()
    receiver.status = 500
    assert "HTTP 500" in owner.post(url).content.decode()

    got = receiver.received[0]
    assert got.is_signed()
    assert (got.content["type"], got.content["total_tokens"]) == ("test", 0)
    assert Delivery.objects.count() == 1


def test_dead_letters_are_sent_again_one_by_one_or_all(owner: Client, auditor: Client, world: World) -> None:
    delivery = Delivery.objects.get()
    url = reverse("admin:billing_delivery_changelist")
    chosen = {"action": "replay_selected", "_selected_action": [delivery.pk]}
    auditor.post(url, chosen)
    delivery.refresh_from_db()
    assert delivery.state == "dead"

    owner.post(url, chosen)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("pending", 0)

    Delivery.objects.update(state="dead")
    everything = reverse("admin:billing_delivery_replay_dead")
    assert "1 events become due now" in owner.get(everything).content.decode()
    assert auditor.post(everything).status_code == 403
    owner.post(everything)
    assert Delivery.objects.get().state == "pending"


def test_deliveries_can_be_filtered(owner: Client, world: World) -> None:
    url = reverse("admin:billing_delivery_changelist")
    reporter = UsageReporter.objects.get()

    assert "usage_req-1" in owner.get(f"{url}?state__exact=dead&reporter__id__exact={reporter.pk}").content.decode()
    assert "usage_req-1" not in owner.get(f"{url}?state__exact=pending").content.decode()
    assert "usage_req-1" in owner.get(f"{url}?q=usage_req-1").content.decode()


def test_a_budget_shows_what_it_has_reached(owner: Client, world: World) -> None:
    alert = Alert.objects.get()

    assert "80 %" in owner.get(reverse("admin:billing_alert_changelist")).content.decode()
    page = owner.get(_page("budget_change", alert.budget_id)).content.decode()
    assert "80 % on" in page
