"""A large ledger on PostgreSQL: made-up rows in day partitions, with their sums, and how long those wait who read them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from typing import Any

from bench.processes import BenchError
from bench.scale_keys import TEAMS, fill

KEYS = 2_000
"""Keys that made the rows, of all there are; the first ones made the most."""
GOAL_MS = 300.0
TIMES = 3
"""Each is measured so often after a first time that does not count; the fastest counts, for others measure neighbours."""
END_USERS = 5_000
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash")
HISTOGRAM = '{"98": 2, "101": 7, "104": 11, "106": 9, "109": 4, "113": 2, "120": 1}'

Say = Callable[[str], None]
Read = Callable[[], object]


def measure_rows(rows: int, days: int, *, keys: int = KEYS, say: Say, plans: bool) -> None:
    from django.db import connection

    if connection.vendor != "postgresql":
        raise BenchError("a large ledger is measured on PostgreSQL alone: add --postgres")
    # To fill a ledger takes minutes, in which sources may be edited: what is measured is loaded before.
    for module in ("llmgateway.urls", "llmgateway.asgi", "llmgateway.config_loader", "llmgateway.seeding"):
        import_module(module)
    began = time.perf_counter()
    fill_ledger(rows, days, keys)
    say(
        f"{rows:,} rows of {keys:,} keys over {days} days written in {time.perf_counter() - began:.0f} s; {_size_mb():,.0f} MB"
    )
    say(f"{'read':<44}{'ms':>8}{'of it SQL':>11}{'queries':>9}")
    slow: list[Reading] = []
    for name, read in reads().items():
        reading = measured(name, read)
        mark = "" if reading.ms <= GOAL_MS else f"  over {GOAL_MS:.0f} ms"
        say(f"{name:<44}{reading.ms:>8.0f}{reading.sql_ms:>11.0f}{reading.queries:>9}{mark}")
        if mark:
            slow.append(reading)
    for reading in slow if plans else ():
        say(f"\n{reading.name}: {reading.slowest_ms:.0f} ms\n{reading.plan()}")


# Writing.


def fill_ledger(rows: int, days: int, keys: int = KEYS) -> None:
    """Keys and teams where there are none, rows that end now, and what the drain would have summed up of them."""
    from django.db import connection

    from billing.day_sums import sum_days
    from billing.partitions import ensure_partitions
    from llmgateway.models import ApiKey

    if not ApiKey.objects.exists():
        fill(max(KEYS, keys))
    today = datetime.now(UTC).date()
    all_days = [today - timedelta(days=back) for back in reversed(range(days))]
    ensure_partitions("default", all_days)
    first_key = ApiKey.objects.order_by("id").values_list("id", flat=True)[0]
    with connection.cursor() as cursor:
        for number, day in enumerate(all_days):
            each = rows // days + (number < rows % days)
            cursor.execute(_insert_rows(day, each, first_key))
        for statement in (_ROLLUPS, _TEAM_HOURS):
            cursor.execute(statement)
        sum_days(datetime.now(UTC))
        cursor.execute("VACUUM ANALYZE")


def _insert_rows(day: date, count: int, first_key: int) -> str:
    """Today's lie before this moment, others' anywhere in their day."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    seconds = min((datetime.now(UTC) - begin).total_seconds(), 86_399)
    key = f"floor({KEYS} * random() * random())::int"
    chosen = {
        "id": f"'req_{day:%Y%m%d}' || lpad(number::text, 24, '0')",
        "day": f"DATE '{day}'",
        "started_at": "at_",
        "admitted_at": "at_",
        "status": "CASE WHEN number % 50 = 0 THEN 'failed' WHEN number % 70 = 0 THEN 'cancelled' ELSE 'completed' END",
        "http_status": "200",
        "key_id": f"({first_key} + key_)::text",
        "key_name": "'key-' || lpad(key_::text, 6, '0')",
        "team_id": "team_",
        "team_name": "'team-' || lpad((key_ % 200)::text, 3, '0')",
        "end_user": f"'user-' || (number % {END_USERS})",
        "client_ip": "'192.0.2.' || (number % 250)",
        "operation": "'chat'",
        "alias": f"({_texts(MODELS)})[1 + number % {len(MODELS)}]",
        "model": f"({_texts(MODELS)})[1 + number % {len(MODELS)}]",
        "provider": "'main'",
        "deployment": "'main-' || (number % 4)",
        "input": "100 + number % 1000",
        "output": "20 + number % 300",
        "usage_source": "'provider'",
        "cost_pico_usd": "(100 + number % 1000) * 150000 + (20 + number % 300) * 600000",
        "priced": "true",
        "counted": "true",
        "duration_us": "200000 + number % 900000",
        "ttft_us": "90000 + number % 90000",
        "attempts": "'[]'::jsonb",
        "needs_review": "number % 99991 = 0",
    }
    columns, values = zip(*((name, chosen.get(name, default)) for name, default in _defaults().items()), strict=True)
    return (
        f"INSERT INTO billing_usagerecord ({', '.join(columns)}) SELECT {', '.join(values)} FROM ("
        f"SELECT number, key_, (SELECT min(id) FROM llmgateway_team WHERE name = 'team-000') + key_ % {TEAMS} AS team_, "
        f"TIMESTAMPTZ '{begin.isoformat()}' + number * INTERVAL '1 second' * {seconds / (count + 1)} AS at_ "
        f"FROM (SELECT number, {key} AS key_ FROM generate_series(1, {count}) AS number) AS drawn) AS made"
    )


def _texts(texts: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(repr(text) for text in texts)}]"


def _defaults() -> dict[str, str]:
    """Every column with what it holds where nothing is said, as SQL."""
    from django.db import models

    from billing.models import UsageRecord

    found = {}
    for field in UsageRecord._meta.concrete_fields:  # noqa: SLF001  # Django's documented model API
        if field.null:
            found[field.attname] = "NULL"
        elif isinstance(field, models.CharField):
            found[field.attname] = "''"
        else:
            found[field.attname] = "false" if isinstance(field, models.BooleanField) else "0"
    return found


_ROLLUPS = f"""
INSERT INTO billing_usagerollup (hour, team_id, key_id, alias, provider, deployment, model, status, code, team_name,
    key_name, requests, input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cost_pico_usd,
    estimated_requests, unpriced_requests, counted_requests, ttft_histogram, duration_histogram, overhead_histogram)
SELECT date_trunc('hour', started_at), team_id, key_id, alias, provider, deployment, model, status, '', team_name,
    key_name, count(*), sum(input), sum(output), 0, 0, sum(cost_pico_usd), 0, 0, count(*),
    '{HISTOGRAM}', '{HISTOGRAM}', '{HISTOGRAM}'
FROM billing_usagerecord GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 10, 11 ORDER BY 1"""
# In the order in which hours pass, as the drain writes them.
_TEAM_HOURS = f"""
INSERT INTO billing_teamhour (hour, team_id, by_model, ttft_histogram, duration_histogram, overhead_histogram)
SELECT hour, team_id, jsonb_object_agg(model, by_status), '{HISTOGRAM}', '{HISTOGRAM}', '{HISTOGRAM}' FROM (
    SELECT hour, team_id, model, jsonb_object_agg(status, sums) AS by_status FROM (
        SELECT hour, team_id, model, status, jsonb_build_array(sum(requests), sum(input_tokens), sum(output_tokens),
            sum(cost_pico_usd), 0, 0) AS sums
        FROM billing_usagerollup GROUP BY 1, 2, 3, 4) AS of_status GROUP BY 1, 2, 3) AS of_model GROUP BY 1, 2"""


def _size_mb() -> float:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return float(cursor.fetchone()[0]) / 2**20


# Reading.


@dataclass(frozen=True, slots=True)
class Reading:
    """What one page or command took, the fastest of some."""

    name: str
    ms: float
    sql_ms: float
    queries: int
    slowest_ms: float
    slowest: tuple[str, Any]

    def plan(self) -> str:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS OFF, COSTS OFF) {self.slowest[0]}", self.slowest[1])
            return "\n".join(line for (line,) in cursor.fetchall())


def measured(name: str, read: Read) -> Reading:
    read()
    return min((_once(name, read) for _ in range(TIMES)), key=lambda reading: reading.ms)


def _once(name: str, read: Read) -> Reading:
    from django.db import connection

    asked: list[tuple[float, tuple[str, Any]]] = []

    def time_query(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            asked.append(((time.perf_counter() - began) * 1000, (sql, params)))

    with connection.execute_wrapper(time_query):
        began = time.perf_counter()
        read()
        ms = (time.perf_counter() - began) * 1000
    slowest = max(asked, key=lambda one: one[0], default=(0.0, ("SELECT 1", None)))
    return Reading(name, ms, sum(each for each, _ in asked), len(asked), *slowest)


def reads() -> dict[str, Read]:
    """What people and programs ask of a ledger, by what it is called."""
    return {**_pages(), **_api(), **_counters()}


def _pages() -> dict[str, Read]:
    from django.contrib.auth import get_user_model
    from django.test import Client

    from billing.models import UsageRecord

    user = get_user_model().objects.create_superuser("scale", password=None)
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    row = UsageRecord.objects.order_by("-started_at")[1000]
    old = UsageRecord.objects.filter(team_name="team-007").order_by("started_at")[100]

    def page(path: str, **query: str) -> Read:
        return lambda: _checked(client.get(path, query))

    usage = "/admin/billing/usagerecord/"
    return {
        "admin": page("/admin/"),
        **_lists(page),
        "admin usage": page(usage),
        "admin usage, last day": page(usage, period="day"),
        "admin usage, last month": page(usage, period="month"),
        "admin usage, one key": page(usage, key="key-000005"),
        "admin usage, one quiet key": page(usage, key=f"key-{KEYS - 50:06}"),
        "admin usage, one team, last week": page(usage, team="team-007", period="week"),
        "admin usage, failed": page(usage, status="failed"),
        "admin usage, to be reviewed": page(usage, review="needed"),
        "admin usage, page 60": page(usage, p="60"),
        "admin usage, search a request": page(usage, q=row.id),
        "admin usage, search a key": page(usage, q="key-000005"),
        "admin usage, search an end user": page(usage, q="user-77"),
        "admin usage, search what is nowhere": page(usage, q="nobody"),
        "admin usage, one request": page(f"{usage}{row.id}/change/"),
        "dashboard, a list of teams": page("/"),
        "dashboard, team, today": page("/teams/team-007/"),
        "dashboard, team, longest period": page("/teams/team-007/", period="90d"),
        "dashboard, requests": page("/requests/", team="team-007"),
        "dashboard, old requests": page("/requests/", team="team-007", before=f"{old.started_at.isoformat()},{old.id}"),
        "dashboard, one request": page(f"/requests/{row.id}/"),
    }


def _lists(page: Callable[..., Read]) -> dict[str, Read]:
    """What is there, not what it used."""
    from billing.models import Budget
    from llmgateway.models import ApiKey, RateLimit, Team

    key, team = ApiKey.objects.get(name="key-000005"), Team.objects.get(name="team-007")
    keys, limits, budgets = "/admin/llmgateway/apikey/", "/admin/llmgateway/ratelimit/", "/admin/billing/budget/"
    return {
        "admin keys": page(keys),
        "admin keys, page 90": page(keys, p="90"),
        "admin keys, search one": page(keys, q=key.name),
        "admin keys, search what is nowhere": page(keys, q="nobody"),
        "admin keys, one": page(f"{keys}{key.pk}/change/"),
        "admin limits": page(limits),
        "admin limits, search one key's": page(limits, q=key.name),
        "admin limits, one": page(f"{limits}{RateLimit.objects.filter(key=key)[0].pk}/change/"),
        "admin budgets": page(budgets),
        "admin budgets, search one team's": page(budgets, q=team.name),
        "admin budgets, one": page(f"{budgets}{Budget.objects.filter(team=team)[0].pk}/change/"),
        "admin teams": page("/admin/llmgateway/team/"),
        "admin teams, one": page(f"/admin/llmgateway/team/{team.pk}/change/"),
    }


def _api() -> dict[str, Read]:
    from django.core.management import call_command
    from django.test import Client

    from billing.models import UsageRecord
    from llmgateway.management_api.tokens import token_create

    _, secret = token_create(name="scale", scopes=["usage:read", "keys:read", "limits:read", "budgets:read"])
    client = Client(SERVER_NAME="localhost", HTTP_AUTHORIZATION=f"Bearer {secret}")
    row = UsageRecord.objects.order_by("-started_at")[1000]
    usage = "/manage/api/v1/usage"

    def get(path: str = usage, **query: str) -> Read:
        return lambda: _checked(client.get(path, query))

    def usage_command(**options: Any) -> Read:
        return lambda: call_command("usage", json=True, stdout=io.StringIO(), **options)

    week = (datetime.now(UTC) - timedelta(days=7)).isoformat()
    manage = "/manage/api/v1"
    return {
        "API keys": get(f"{manage}/keys"),
        "API keys, one team": get(f"{manage}/keys", team="team-007"),
        "API keys, search": get(f"{manage}/keys", search="key-000005"),
        "API limits": get(f"{manage}/limits"),
        "API limits, one key": get(f"{manage}/limits", key="key-000005"),
        "API budgets, one team": get(f"{manage}/budgets", team="team-007"),
        "API budgets": get(f"{manage}/budgets"),
        "API usage": get(),
        "API usage, one key": get(key="key-000005"),
        "API usage, one team": get(team="team-007"),
        "API usage, failed": get(status="failed"),
        "API usage, one deployment": get(deployment="main-3"),
        "API usage, one end user": get(end_user="user-77"),
        "API usage, an end user that is nowhere": get(end_user="nobody"),
        "API usage, one client's request": get(client_request_id="nothing"),
        "API usage, last week": get(since=week),
        "API usage, one request": get(f"{usage}/{row.id}"),
        "API sums by team": get(f"{usage}/summary"),
        "API sums by day and model": get(f"{usage}/summary", group_by="day,model"),
        "API sums by key, one team": get(f"{usage}/summary", group_by="key", team="team-007"),
        "API sums by key, last week": get(f"{usage}/summary", group_by="key", since=week),
        "usage --since 5m": usage_command(since="5m"),
        "usage --since 2h --key": usage_command(since="2h", key="key-000005"),
    }


def _counters() -> dict[str, Read]:
    from llmgateway.config_loader import load_snapshot
    from llmgateway.seeding import seeds, window_limits

    snapshot = load_snapshot()
    budgets, limits = list(snapshot.budgets.values()), list(window_limits(snapshot).values())
    return {
        "counters of 100 budgets and 100 limits": lambda: seeds(budgets[:100], limits[:100], time.time()),
        "counters of everything": lambda: seeds(budgets, limits, time.time()),
    }


def _checked(response: Any) -> None:
    if response.status_code != 200:
        raise BenchError(f"{response.request['PATH_INFO']} answered {response.status_code}: {response.content[:500]!r}")


__all__ = ["fill_ledger", "measure_rows", "measured", "reads"]
