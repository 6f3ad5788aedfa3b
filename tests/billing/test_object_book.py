"""The book of kept objects in the database: first owner wins, and one request pays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import KeptObject, UsageRecord
from billing.object_book import FORGOTTEN_AFTER, LOST_AFTER, _claim, _models, _owners, _remember
from llmgateway.pipeline.protocols import Owner

pytestmark = pytest.mark.django_db
ALICE, BOB = Owner("openai", 3, "1"), Owner("openai", 4, "2")


def test_an_object_keeps_its_first_owner() -> None:
    _remember(["file-1", "file-1"], ALICE)
    _remember(["file-1", "file-2"], BOB)

    assert _owners({"file-1", "file-2", "file-3"}) == {"file-1": ALICE, "file-2": BOB}


def test_one_request_pays_and_may_ask_again() -> None:
    now = timezone.now()

    assert _claim("file-1", ALICE, "req_1", now)
    assert not _claim("file-1", ALICE, "req_2", now)
    assert _claim("file-1", ALICE, "req_1", now)
    assert KeptObject.objects.get().charged_by == "req_1"


@pytest.mark.parametrize(
    ("age", "has_row", "again"),
    [
        (timedelta(minutes=5), False, False),
        (LOST_AFTER + timedelta(minutes=1), False, True),
        (LOST_AFTER + timedelta(minutes=1), True, False),
        (FORGOTTEN_AFTER + timedelta(minutes=1), False, False),
    ],
)
def test_a_claim_whose_row_never_came_is_given_to_another(age: timedelta, has_row: bool, again: bool) -> None:
    now = timezone.now()
    _claim("file-1", ALICE, "req_dead", now - age)
    if has_row:
        UsageRecord.objects.create(id="req_dead", day=now.date(), started_at=now, status="completed", key_id="1",
                                   key_name="a", operation="passthrough", alias="x")  # fmt: skip

    assert _claim("file-1", ALICE, "req_2", now) is again


def test_a_row_names_provider_and_id() -> None:
    _remember(["file-1"], ALICE)

    assert str(KeptObject.objects.get()) == "openai/file-1"


def test_what_belongs_to_a_batch_keeps_the_first_model_that_is_told() -> None:
    _remember(["batch_1", "file-out"], ALICE)
    _remember(["batch_1", "file-out"], ALICE, "gpt-4o-mini")
    _remember(["file-out", "file-2"], ALICE, "m" * 300)

    assert _models({"batch_1", "file-out", "file-2", "file-3"}) == {
        "batch_1": "gpt-4o-mini", "file-out": "gpt-4o-mini", "file-2": "m" * 200,
    }  # fmt: skip
