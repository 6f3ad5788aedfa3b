"""Mirrored requests beside their copies, over the management API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import UsageRecord
from tests.llmgateway.admin.world import World, create_record
from tests.llmgateway.management_api.conftest import Caller, Callers

pytestmark = pytest.mark.django_db


@pytest.fixture
def mirrored(world: World) -> None:
    copy = create_record(
        world.key, record_id="req-1_mir", mirror_of=world.record.pk, status="failed", cost_pico_usd=0, output=0
    )
    UsageRecord.objects.filter(pk=copy.pk).update(key_id="mirror", key_name="mirror", team_id=0, alias="large")


@pytest.mark.usefixtures("mirrored")
def test_both_sides_are_told(operator: Caller) -> None:
    answer = operator.get("/mirrors").json()

    assert answer["truncated"] is False
    original = {
        "failed": 0, "ttft_p50_ms": 90.0, "ttft_p95_ms": 90.0, "duration_p50_ms": 812.0, "duration_p95_ms": 812.0,
        "mean_input_tokens": 1000.0, "mean_output_tokens": 200.0, "cost_usd": "0.00027", "cost_pico_usd": 270_000_000,
        "unpriced_requests": 0,
    }  # fmt: skip
    copy = {
        **original, "failed": 1, "ttft_p50_ms": None, "ttft_p95_ms": None, "duration_p50_ms": None,
        "duration_p95_ms": None, "mean_output_tokens": 0.0, "cost_usd": "0", "cost_pico_usd": 0,
    }  # fmt: skip
    assert answer["results"] == [
        {"alias": "small", "mirror": "large", "requests": 1, "original": original, "copy": copy}
    ]


@pytest.mark.usefixtures("mirrored")
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("alias=small", 1),
        ("alias=large", 0),
        ("mirror=large", 1),
        ("mirror=small", 0),
        ("since=2036-01-01T00:00:00Z", 0),
    ],
)
def test_filters(operator: Caller, query: str, found: int) -> None:
    assert len(operator.get(f"/mirrors?{query}").json()["results"]) == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"since": "soon"}, "since"),
        ({"since": (timezone.now() - timedelta(days=40)).strftime("%Y-%m-%dT%H:%M:%SZ")}, "since"),
    ],
    ids=["unknown", "no moment", "too long ago"],
)
def test_what_makes_no_sense_is_refused(operator: Caller, query: dict[str, Any], field: str) -> None:
    [(name, value)] = query.items()

    response = operator.get(f"/mirrors?{name}={value}")

    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


@pytest.mark.usefixtures("mirrored")
def test_who_sees_one_team_alone_sees_no_copies_and_nobody_without_the_scope(caller: Callers, world: World) -> None:
    assert caller("usage:read", team=world.cast.platform).get("/mirrors").json()["results"] == []
    assert caller("keys:read").get("/mirrors").status_code == 403
    assert caller("usage:read").post("/mirrors", {}).status_code == 405
