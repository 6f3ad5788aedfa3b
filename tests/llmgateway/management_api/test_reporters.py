"""Reporters by the API: made, changed, tried and deleted; their secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from billing.models import UsageReporter
from tests.billing.reporters.receiver import Receiver
from tests.llmgateway.admin.world import HEADER_SECRET, SIGNING_SECRET, World
from tests.llmgateway.management_api.conftest import Caller

pytestmark = pytest.mark.django_db

HOOK = {
    "name": "crm",
    "url": "https://8.8.8.8/usage?token=in-the-url",
    "teams": ["platform"],
    "statuses": ["completed"],
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def present(world: World) -> UsageReporter:
    return UsageReporter.objects.get(name="invoicing")


def test_a_new_webhook_shows_the_secret_it_signs_with_once(operator: Caller, world: World) -> None:
    created = operator.post("/reporters", {**HOOK, "headers": {"Authorization": "Bearer s3cret"}})

    answer = created.json()
    reporter = UsageReporter.objects.get(name="crm")
    assert created.status_code == 201
    assert answer["signing_secret"] == reporter.stored_secret()
    assert (answer["receiver"], answer["teams"]) == ("https://8.8.8.8/usage", ["platform"])
    assert answer["headers_sent"] == ["Authorization"]
    shown = operator.get(f"/reporters/{answer['id']}").content.decode()
    assert not [secret for secret in (reporter.stored_secret(), "s3cret", "in-the-url") if secret in shown]


def test_stored_secrets_are_in_no_answer(operator: Caller, present: UsageReporter) -> None:
    listed = operator.get("/reporters")

    [row] = listed.json()["results"]
    assert (row["name"], row["deliveries"]["last_error"]) == ("invoicing", "")
    assert not [secret for secret in (SIGNING_SECRET, HEADER_SECRET) if secret in listed.content.decode()]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "crm"}, "url"),
        ({**HOOK, "url": "http://127.0.0.1/x"}, "url"),
        ({**HOOK, "statuses": ["eaten"]}, "statuses"),
        ({**HOOK, "teams": ["nobody"]}, "teams.0"),
        ({**HOOK, "batch_size": 0}, "batch_size"),
        ({**HOOK, "signing_secret": "short"}, "signing_secret"),
        ({**HOOK, "signing_secret": "env:SECRET_KEY"}, "signing_secret"),
        ({**HOOK, "headers": {"X-Stolen": "env:SECRET_KEY"}}, "headers"),
        ({**HOOK, "headers": {"X-Stolen": "file:/etc/passwd"}}, "headers"),
        ({**HOOK, "headers": {"bad name": "x"}}, "headers"),
        ({**HOOK, "surprise": 1}, "surprise"),
        ({**HOOK, "name": "invoicing"}, "name"),
    ],
)
def test_what_cannot_be_is_refused_by_field_and_nothing_is_saved(
    operator: Caller, present: UsageReporter, body: dict[str, Any], field: str
) -> None:
    response = operator.post("/reporters", body)

    fields = response.json()["error"]["fields"]
    assert response.status_code == 400
    assert field in fields or field.partition(".")[0] in fields, fields
    assert UsageReporter.objects.count() == 1


def test_a_reporter_is_changed_and_keeps_its_secrets(operator: Caller, present: UsageReporter) -> None:
    changed = operator.patch(f"/reporters/{present.pk}", {"enabled": False, "batch_size": 9, "teams": ["research"]})

    present.refresh_from_db()
    assert (changed.json()["enabled"], changed.json()["teams"]) == (False, ["research"])
    assert (present.batch_size, present.stored_secret()) == (9, SIGNING_SECRET)


def test_stored_headers_do_not_follow_to_another_address(operator: Caller, present: UsageReporter) -> None:
    """Else whoever may write reporters would read their secrets."""
    stolen = operator.patch(f"/reporters/{present.pk}", {"url": "https://8.8.4.4/mine"})
    moved = operator.patch(f"/reporters/{present.pk}", {"url": "https://8.8.4.4/mine", "headers": {}})

    assert (stolen.status_code, stolen.json()["error"]["param"]) == (400, "headers")
    assert (moved.status_code, moved.json()["headers_sent"]) == (200, [])


def test_a_reporter_is_tried_and_deleted(operator: Caller, present: UsageReporter, receiver: Receiver) -> None:
    UsageReporter.objects.update(url=receiver.url, allow_private_network=True)

    tried = operator.post(f"/reporters/{present.pk}/test")
    receiver.stop()
    failed = operator.post(f"/reporters/{present.pk}/test")
    deleted = operator.delete(f"/reporters/{present.pk}")

    assert tried.json() == {"ok": True, "error": ""}
    assert not failed.json()["ok"]
    assert failed.json()["error"]
    assert deleted.status_code == 204
    assert not UsageReporter.objects.exists()


def test_a_team_has_nothing_to_do_with_them(foreigner: Caller, present: UsageReporter) -> None:
    assert {
        foreigner.get("/reporters").status_code,
        foreigner.post("/reporters", HOOK).status_code,
        foreigner.post(f"/reporters/{present.pk}/test").status_code,
    } == {403}
