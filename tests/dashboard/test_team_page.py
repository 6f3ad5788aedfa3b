"""What a team page says is what the ledger says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import Sum
from django.test import Client

from billing import usage_selectors
from billing.histogram import percentile
from billing.models import Budget, UsageRecord
from billing.money import PICO_PER_USD
from dashboard.refusals import REMEDIES
from dashboard.report import TeamReport
from llmgateway.conf import PROJECT_ROOT
from tests.cast import Cast
from tests.conftest import NOON
from tests.dashboard.seeding import Traffic, row, save, traffic

pytestmark = pytest.mark.usefixtures("frozen_time")


def context_of(client: Client, period: str = "7d") -> Any:
    answer = client.get("/teams/platform/", {"period": period})
    assert answer.status_code == 200
    return answer.context


def report_of(client: Client, period: str = "7d") -> TeamReport:
    report: TeamReport = context_of(client, period)["report"]
    return report


@pytest.mark.parametrize(("period", "days"), [("7d", 6), ("30d", 29), ("90d", 89)])
def test_sums_equal_the_ledger_exactly(bob: Client, cast: Cast, period: str, days: int) -> None:
    who = Traffic(cast.platform.id, "platform", (("1", "web-app"), ("2", "batch")), busiest=2)
    save(traffic(who, NOON - timedelta(days=100), NOON))

    report = report_of(bob, period)

    midnight = datetime(2026, 3, 14, tzinfo=UTC)
    records = UsageRecord.objects.filter(started_at__gte=midnight - timedelta(days=days))
    expected = records.aggregate(cost=Sum("cost_pico_usd"), input=Sum("input"), output=Sum("output"))
    total = report.total
    assert total.cost_pico_usd == expected["cost"] > 0
    assert (total.input_tokens, total.output_tokens) == (expected["input"], expected["output"])
    assert total.requests == records.count()
    assert total.errors == records.filter(status="failed").count() > 0
    assert sum(model.total.cost_pico_usd for model in report.models) == expected["cost"]
    assert sum(key.usage.cost_pico_usd for key in report.keys) == expected["cost"]


def test_the_cost_of_a_day_and_model_is_that_of_its_requests(bob: Client, cast: Cast) -> None:
    who = Traffic(cast.platform.id, "platform", (("1", "web-app"),), busiest=3)
    save(traffic(who, NOON - timedelta(days=8), NOON))

    report = report_of(bob)

    for model in report.models:
        for start, usage in zip(report.spans.starts, model.by_span, strict=True):
            records = UsageRecord.objects.filter(model=model.model, day=start.date())
            assert usage.cost_pico_usd == (records.aggregate(cost=Sum("cost_pico_usd"))["cost"] or 0)
    assert {model.model for model in report.models} == set(UsageRecord.objects.values_list("model", flat=True))


def test_a_day_begins_at_midnight_of_the_teams_time_zone(bob: Client, cast: Cast) -> None:
    cast.platform.time_zone = "Europe/Berlin"
    cast.platform.save()
    before, after = datetime(2026, 3, 13, 22, 59, tzinfo=UTC), datetime(2026, 3, 13, 23, 1, tzinfo=UTC)
    save([
        row(before, team_id=cast.platform.id, cost_pico_usd=1),
        row(after, team_id=cast.platform.id, cost_pico_usd=10),
    ])  # fmt: skip

    report = report_of(bob)

    assert [usage.cost_pico_usd for usage in report.by_span[-2:]] == [1, 10]
    assert report.spans.labels[-2:] == ("Mar 13", "Mar 14")


def test_a_zone_whose_midnight_is_not_a_full_hour_of_utc_says_how_days_are_cut(bob: Client, cast: Cast) -> None:
    cast.platform.time_zone = "Asia/Kolkata"
    cast.platform.save()
    save([row(datetime(2026, 3, 13, 18, 45, tzinfo=UTC), team_id=cast.platform.id, cost_pico_usd=7)])

    context = context_of(bob)

    assert context["report"].total.cost_pico_usd == 7
    assert context["off_the_hour"]
    assert [usage.cost_pico_usd for usage in context["report"].by_span[-2:]] == [7, 0]


def test_what_is_older_than_the_period_does_not_count(bob: Client, cast: Cast) -> None:
    save([row(NOON - timedelta(days=7), team_id=cast.platform.id, cost_pico_usd=5)])

    assert report_of(bob).total.requests == 0
    assert report_of(bob, "30d").total.requests == 1


def test_the_last_24_hours_are_shown_by_the_hour(bob: Client, cast: Cast) -> None:
    save([row(NOON - timedelta(hours=2, minutes=5), team_id=cast.platform.id, cost_pico_usd=5)])

    report = report_of(bob, "24h")

    assert [usage.requests for usage in report.by_span] == [0] * 20 + [1, 0, 0, 0]


def test_percentiles_are_those_of_the_merged_histograms(bob: Client, cast: Cast) -> None:
    durations = [10_000 * number for number in range(1, 101)]
    save(
        row(NOON - timedelta(hours=number % 30), id=f"r{number}", team_id=cast.platform.id, key_id=str(number % 3),
            duration_us=duration, ttft_us=duration // 2, overhead_us=300)
        for number, duration in enumerate(durations)
    )  # fmt: skip

    report = report_of(bob)

    assert report.duration.whole.p50 == pytest.approx(500_000, rel=0.05)
    assert report.duration.whole.p99 == pytest.approx(990_000, rel=0.05)
    assert report.ttft.whole.p95 == pytest.approx(475_000, rel=0.05)
    assert report.overhead.whole.p99 == pytest.approx(300, rel=0.05)
    assert report.duration.by_span[0].p50 is None


def test_a_team_without_streams_has_no_time_to_first_token(bob: Client, cast: Cast) -> None:
    save([row(NOON, team_id=cast.platform.id, ttft_us=None)])

    report = report_of(bob)

    assert report.ttft.whole.p50 is None
    assert report.duration.whole.p50 is not None
    assert percentile({}, 0.5) is None


def test_the_page_says_why_requests_were_refused(bob: Client, cast: Cast) -> None:
    refused = {"hour": NOON.timestamp(), "team_id": cast.platform.id, "key_id": "1", "alias": "small",
               "team_name": "platform", "key_name": "web-app", "code": ""}  # fmt: skip
    foreign = {**refused, "team_id": cast.research.id, "code": "ip_not_allowed", "count": 7}
    limited, spent = {**refused, "code": "rate_limit_exceeded"}, {**refused, "code": "insufficient_quota"}
    save(
        [row(NOON, team_id=cast.platform.id)],
        [{**limited, "count": 6}, {**spent, "count": 3}, {**refused, "count": 1}, foreign],
    )

    report = report_of(bob)
    page = bob.get("/teams/platform/").content.decode()

    assert [(each.code, each.requests, each.share) for each in report.refusals] == [
        ("rate_limit_exceeded", 6, 0.6),
        ("insufficient_quota", 3, 0.3),
        ("", 1, 0.1),
    ]
    assert "<code>rate_limit_exceeded</code>" in page
    assert "or raise the limit" in page
    assert "not known" in page
    assert "ip_not_allowed" not in page


def test_without_refusals_there_is_nothing_about_them(bob: Client, cast: Cast) -> None:
    save([row(NOON, team_id=cast.platform.id)])

    assert "Why requests were refused" not in bob.get("/teams/platform/").content.decode()


def test_every_code_that_is_explained_is_documented() -> None:
    documented = (PROJECT_ROOT / "docs" / "api.md").read_text(encoding="utf-8")

    assert [code for code in REMEDIES if f"`{code}`" not in documented] == []


def test_refused_requests_are_counted_apart(bob: Client, cast: Cast) -> None:
    refused = {"hour": NOON.timestamp(), "team_id": cast.platform.id, "key_id": "1", "alias": "small",
               "team_name": "platform", "key_name": "web-app", "count": 3}  # fmt: skip
    save([row(NOON, team_id=cast.platform.id), row(NOON, id="x", team_id=cast.platform.id, status="failed")], [refused])

    total = report_of(bob).total

    assert (total.requests, total.refused, total.errors) == (2, 3, 1)
    assert total.error_rate == 0.5


def test_costs_beyond_64_bits_add_up_exactly(bob: Client, cast: Cast) -> None:
    cost = 2**63 - 1
    save(
        row(NOON - timedelta(hours=key), id=f"r{key}", team_id=cast.platform.id, key_id=str(key),
            cost_pico_usd=cost - key)
        for key in (1, 2, 3)
    )  # fmt: skip

    report = report_of(bob)

    assert report.total.cost_pico_usd == 3 * cost - 6
    assert [key.key_id for key in report.keys] == ["1", "2", "3"]
    week = usage_selectors.team_usage(cast.platform.id, NOON - timedelta(days=1), NOON)
    assert week.cost_pico_usd == 3 * cost - 6


def test_many_models_are_shown_as_the_dearest_and_the_others(bob: Client, cast: Cast) -> None:
    save(
        row(NOON, id=f"r{number}", team_id=cast.platform.id, model=f"model-{number}", cost_pico_usd=number)
        for number in range(1, 13)
    )

    models = report_of(bob).models

    assert [model.model for model in models] == [*(f"model-{number}" for number in range(12, 4, -1)), "4 others"]
    assert models[-1].total.cost_pico_usd == 1 + 2 + 3 + 4


def test_budgets_show_what_the_ledger_settled_in_their_window(bob: Client, cast: Cast) -> None:
    Budget.objects.create(name="day", team=cast.platform, window="day", limit_pico_usd=10 * PICO_PER_USD)
    Budget.objects.create(name="week", key=cast.platform_key, window="week", limit_pico_usd=PICO_PER_USD)
    Budget.objects.create(name="off", team=cast.platform, enabled=False, limit_pico_usd=1)
    Budget.objects.create(name="foreign", team=cast.research, limit_pico_usd=1)
    Budget.objects.create(name="everyone", limit_pico_usd=1)
    key = str(cast.platform_key.pk)
    save([
        row(NOON, id="a", team_id=cast.platform.id, key_id=key, cost_pico_usd=PICO_PER_USD * 9 // 10),
        row(NOON, id="b", team_id=cast.platform.id, key_id="other", cost_pico_usd=2 * PICO_PER_USD),
        row(NOON - timedelta(days=1), id="c", team_id=cast.platform.id, key_id=key, cost_pico_usd=PICO_PER_USD // 4),
    ])  # fmt: skip

    day, week = context_of(bob)["live"]["budgets"]

    assert (day["name"], day["of"], day["settled"], day["used"], day["state"]) == ("day", "team", "$2.90", "29 %", "ok")
    assert (week["name"], week["of"], week["settled"]) == ("week", "key platform-key", "$1.15")
    assert (week["percent"], week["state"]) == (100.0, "spent")
    assert day["resets_at"] == "Mar 15, 00:00"


def test_the_budgets_of_many_keys_are_asked_for_at_once(cast: Cast, django_assert_max_num_queries: Any) -> None:
    Budget.objects.bulk_create(
        [Budget(name=f"day {number}", key=cast.platform_key, window="day", limit_pico_usd=1) for number in range(10)]
    )

    with django_assert_max_num_queries(6):
        found = usage_selectors.budget_uses(cast.platform.id, "UTC", NOON)

    assert len(found) == 10


@pytest.mark.parametrize("of_key", [False, True])
def test_a_budget_counts_from_its_midnight_also_within_an_hour_of_utc(bob: Client, cast: Cast, of_key: bool) -> None:
    cast.platform.time_zone = "Asia/Kolkata"
    cast.platform.save()
    owner = {"key": cast.platform_key} if of_key else {"team": cast.platform}
    Budget.objects.create(name="day", window="day", limit_pico_usd=10 * PICO_PER_USD, **owner)
    midnight, key = datetime(2026, 3, 13, 18, 30, tzinfo=UTC), str(cast.platform_key.pk)
    save(
        row(
            midnight + timedelta(minutes=after), team_id=cast.platform.id, key_id=key, cost_pico_usd=cost * PICO_PER_USD
        )
        for after, cost in ((-1, 1), (0, 2), (20, 2), (90, 3))
    )

    assert context_of(bob)["live"]["budgets"][0]["settled"] == "$7.00"


def test_charts_come_with_tables_that_say_the_same(bob: Client, cast: Cast) -> None:
    save([row(NOON, team_id=cast.platform.id, cost_pico_usd=1_234_500_000_000)])

    context = context_of(bob)

    cost = next(chart for chart in context["charts"] if chart.id == "cost")
    assert list(cost.rows())[-1] == ("Mar 14", "$1.23")
    assert cost.drawing()["series"] == [{"label": "gpt-4o-mini", "values": (0.0,) * 6 + (1.2345,)}]


def test_a_team_without_traffic_is_told_what_to_do_next(bob: Client) -> None:
    page = bob.get("/teams/platform/").content.decode()

    assert "No requests in the last 7 days" in page
    assert "curl http://testserver/v1/chat/completions" in page
    assert "<canvas" not in page


def test_a_team_without_traffic_in_the_period_sees_when_the_last_was(bob: Client, cast: Cast) -> None:
    save([row(NOON - timedelta(days=20), team_id=cast.platform.id)])

    page = bob.get("/teams/platform/").content.decode()

    assert "The last one was on February 22, 12:00" in page


def test_the_page_asks_the_database_a_bounded_number_of_times(
    bob: Client, cast: Cast, django_assert_max_num_queries: Any
) -> None:
    who = Traffic(
        cast.platform.id, "platform", tuple((str(number), f"key-{number}") for number in range(30)), busiest=2
    )
    save(traffic(who, NOON - timedelta(days=90), NOON))

    with django_assert_max_num_queries(16):
        bob.get("/teams/platform/", {"period": "90d"})
