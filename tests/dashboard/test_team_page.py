"""What a team page says is what the ledger says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import Sum
from django.test import Client

from billing.models import UsageRecord
from billing.money import format_usd
from dashboard.report import TeamReport
from tests.cast import Cast
from tests.conftest import NOON
from tests.dashboard.seeding import Traffic, row, save, traffic

pytestmark = pytest.mark.usefixtures("frozen_time")


def report_of(client: Client, team: str = "platform", period: str = "7d") -> TeamReport:
    report: TeamReport = client.get(f"/teams/{team}/", {"period": period}).context["report"]
    return report


@pytest.mark.parametrize(("period", "days"), [("7d", 6), ("30d", 29), ("90d", 89)])
def test_sums_equal_the_ledger_exactly(bob: Client, cast: Cast, period: str, days: int) -> None:
    who = Traffic(cast.platform.id, "platform", (("1", "web-app"), ("2", "batch")), busiest=2)
    save(traffic(who, NOON - timedelta(days=100), NOON))

    total = report_of(bob, period=period).total

    midnight = datetime(2026, 3, 14, tzinfo=UTC)
    records = UsageRecord.objects.filter(started_at__gte=midnight - timedelta(days=days))
    expected = records.aggregate(cost=Sum("cost_pico_usd"), input=Sum("input"), output=Sum("output"))
    assert total.cost_pico_usd == expected["cost"] > 0
    assert (total.input_tokens, total.output_tokens) == (expected["input"], expected["output"])
    assert total.requests == records.count()
    assert total.errors == records.filter(status="failed").count() > 0
