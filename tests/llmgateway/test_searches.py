"""What is searched is found alike, whether few rows match or many, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import Alert, Budget
from llmgateway import searches
from llmgateway.admin.teams import TeamAdmin
from llmgateway.admin_base import CappedPaginator
from llmgateway.audit import acting_as
from llmgateway.management_api.tokens import token_create
from llmgateway.models import ApiKey, KeyNetwork, Membership, NetworkList, RateLimit, Team
from llmgateway.searches import of_found, words_of
from providers.models import Provider
from tests.cast import create_cast

KEYS = [("mail-one", "aa11", "ana"), ("mail-two", "bb22", ""), ("Chat", "mail", "mail-one")]
CHANGES_PAGE = "/admin/auditlog/logentry/"
KEYS_PAGE, BUDGETS_PAGE, LIMITS_PAGE = (
    "/admin/llmgateway/apikey/", "/admin/billing/budget/", "/admin/llmgateway/ratelimit/",
)  # fmt: skip


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ]
)
def browser(request: pytest.FixtureRequest) -> Client:
    """Alice, with a token that reads everything. There are keys, limits and budgets of two teams and a provider."""
    if request.param == "postgresql":
        request.getfixturevalue("_on_postgres")
    assert connection.vendor == request.param
    alice = create_cast().alice
    office = Team.objects.create(name="office")
    provider = Provider.objects.create(name="acme", adapter="openai_compatible", base_url="https://api.acme.example/v1")
    for name, public_id, owner in KEYS:
        key = ApiKey.objects.create(
            name=name, team=office, public_id=public_id, user_id=owner, digest=public_id, pepper_id="p"
        )
        RateLimit.objects.create(key=key, amount=5)
        Budget.objects.create(key=key, name="day", limit_pico_usd=5)
    RateLimit.objects.create(amount=7, model="mail-model")
    for owned in ({"team": office}, {"provider": provider}):
        RateLimit.objects.create(amount=6, **owned)
        Budget.objects.create(name="mail-month", limit_pico_usd=6, **owned)
    _, secret = token_create(name="reader", scopes=["keys:read", "limits:read", "budgets:read", "networks:read"])
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture(params=[10_000, 0], ids=["few", "many"])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows count as few. None stand in a query one by one."""
    monkeypatch.setattr(searches, "MOST_LISTED", request.param)
    monkeypatch.setattr(searches, "MOST_IN", 0 if connection.vendor == "postgresql" else request.param)


def names(client: Client, path: str, search: str) -> list[str]:
    page = client.get(path, {"q": search})
    return [_name(row) for row in page.context["cl"].result_list]


def _name(row: Any) -> str:
    owner = next((getattr(row, kind) for kind in ("key", "provider") if getattr(row, kind, None)), None)
    return f"{row.name} of {owner}" if isinstance(row, Budget) else str(owner or row)


KEYS_FOUND: dict[str, Any] = {
    "mail": ["Chat", "mail-one", "mail-two"],
    "AIL-T": ["mail-two"],
    "AI": ["mail-one", "mail-two"],
    "-T": ["mail-two"],
    "mail-one": ["Chat", "mail-one"],
    "BB22": ["mail-two"],
    "sk-gw-bb22…": ["mail-two"],
    "sk-gw-bb22-secret": ["mail-two"],
    "bb2": [],
    "ANA": ["mail-one"],
    "an": [],
    "Office": ["Chat", "mail-one", "mail-two"],
    "office chat": ["Chat"],
    "'mail one'": [],
    "research-k": ["research-key"],
}


def test_a_key_is_found_by_what_people_know_of_it(browser: Client, most: None) -> None:
    assert {search: names(browser, KEYS_PAGE, search) for search in KEYS_FOUND} == KEYS_FOUND


BUDGETS_FOUND: dict[str, Any] = {
    "ai": ["mail-month of acme", "mail-month of None"],
    "Mail-One": ["day of mail-one"],
    "acme": ["mail-month of acme"],
    "office mail": ["mail-month of None"],
    "acm": [],
}


def test_a_budget_is_found_by_its_name_and_its_owner(browser: Client, most: None) -> None:
    assert {search: names(browser, BUDGETS_PAGE, search) for search in BUDGETS_FOUND} == BUDGETS_FOUND


def test_a_limit_is_found_by_its_owner(browser: Client, most: None) -> None:
    assert names(browser, LIMITS_PAGE, "mail-one") == ["mail-one"]
    assert names(browser, LIMITS_PAGE, "ACME") == ["acme"]
    assert names(browser, LIMITS_PAGE, "mail") == []


API_FOUND: dict[str, Any] = {
    "keys?search=mail": 3,
    "keys?search=mail,two": 1,
    "keys?search=ana": 1,
    "keys?search=AI": 2,
    "keys?search=sk-gw-bb22…": 1,
    "limits?search=mail": 3,
    "limits?search=offi": 1,
    "limits?search=MAIL-M": 1,
    "limits?search=acm": 1,
    "limits?search=-t": 1,
    "limits?search=w": 1,
    "limits?team_or_its_keys=office": 4,
    "limits?team_or_its_keys=nobody": 0,
    "budgets?search=mail": 4,
    "budgets?search=mail acme": 1,
    "budgets?team_or_its_keys=office": 4,
}


def test_the_api_finds_parts_of_names(browser: Client, most: None) -> None:
    found = {path: browser.get(f"/manage/api/v1/{path}&page_size=2").json() for path in API_FOUND}

    assert {path: page["count"] for path, page in found.items()} == API_FOUND
    assert {path: len(page["results"]) for path, page in found.items()} == {
        path: min(count, 2) for path, count in API_FOUND.items()
    }


def test_few_rows_are_looked_for_once_and_many_no_further_than_that(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKey.objects.order_by("name")
    found = keys.filter(name__icontains="mail")

    assert "LIKE" not in str(of_found(found, keys).query).upper()
    monkeypatch.setattr(searches, "MOST_LISTED", 1)
    monkeypatch.setattr(searches, "MOST_IN", 1)
    assert of_found(found, keys) is found


def test_quotes_keep_words_together() -> None:
    assert words_of(" one 'two three' \"four five\" don't ") == ["one", "two three", "four five", "don't"]


def test_teams_show_the_keys_and_members_of_the_page_alone(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TeamAdmin, "list_per_page", 2)
    Membership.objects.create(team=Team.objects.get(name="platform"), user_id=1)

    with CaptureQueriesContext(connection) as asked:
        page = browser.get("/admin/llmgateway/team/")

    shown = {team.name: (team.key_count, team.member_count) for team in page.context["cl"].result_list}
    assert shown == {"office": (3, 0), "platform": (1, 2)}
    counted = [query["sql"] for query in asked.captured_queries if "llmgateway_apikey" in query["sql"]]
    assert len(counted) == 1
    assert "JOIN" not in counted[0]
    assert '"team_id" IN (' in counted[0]


def test_network_lists_show_how_many_keys_name_them(browser: Client) -> None:
    for number in range(2):
        networks = NetworkList.objects.create(name=f"list-{number}")
        for key in ApiKey.objects.all()[: 2 * number]:
            KeyNetwork.objects.create(key=key, network_list=networks)

    listed = browser.get("/admin/llmgateway/networklist/").context["cl"].result_list

    assert {row.name: row.key_count for row in listed} == {"list-0": 0, "list-1": 2}
    by_api = browser.get("/manage/api/v1/networks").json()
    assert {row["name"]: row["keys"] for row in by_api["results"]} == {"list-0": 0, "list-1": 2}


def test_a_page_of_the_api_joins_for_its_own_rows_alone(browser: Client) -> None:
    with CaptureQueriesContext(connection) as asked:
        found = browser.get("/manage/api/v1/limits?ordering=-amount&page_size=2&page=2").json()

    assert [row["amount"] for row in found["results"]] == [6, 5]
    sorting = [query["sql"] for query in asked.captured_queries if "OFFSET" in query["sql"]]
    assert len(sorting) == 1
    assert "JOIN" not in sorting[0]


def test_what_is_found_too_often_to_be_listed_is_not_counted_again(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOST_LISTED", "MOST_IN"):
        monkeypatch.setattr(searches, name, 2)
    monkeypatch.setattr(CappedPaginator, "counted_rows", 2)

    with CaptureQueriesContext(connection) as asked:
        page = browser.get(KEYS_PAGE, {"q": "mail"})

    assert page.context["cl"].result_count == 2
    assert [query["sql"] for query in asked.captured_queries if "COUNT(" in query["sql"]] == []


def test_a_list_of_one_team_joins_no_keys_to_be_counted(browser: Client, most: None) -> None:
    office = Team.objects.get(name="office")
    RateLimit.objects.create(key=ApiKey.objects.get(name="research-key"), amount=1)
    _, secret = token_create(name="office", scopes=["limits:read", "budgets:read"], team=office)
    program = Client(headers={"Authorization": f"Bearer {secret}"})

    with CaptureQueriesContext(connection) as asked:
        counts = [program.get(f"/manage/api/v1/{path}").json()["count"] for path in ("limits", "budgets")]

    assert counts == [4, 4]
    if searches.MOST_LISTED:
        counting = [query["sql"] for query in asked.captured_queries if "COUNT(" in query["sql"]]
        assert [sql for sql in counting if "JOIN" in sql] == []


def test_an_alert_is_found_by_its_budget_or_whom_it_is_of(browser: Client, most: None) -> None:
    for budget, subject in (
        (Budget.objects.filter(name="day")[0], "ana"),
        (Budget.objects.get(team__name="office"), "bo"),
    ):
        Alert.objects.create(
            budget=budget, subject=subject, window_start=timezone.now(), threshold=80, settled_pico_usd=1, limit_pico_usd=1
        )  # fmt: skip
    found = {"DA": ["ana"], "MAIL-MON": ["bo"], "ANA": ["ana"], "an": [], "month bo": ["bo"], "day bo": []}

    pages = {search: browser.get("/admin/billing/alert/", {"q": search}).context["cl"].result_list for search in found}

    assert {search: [alert.subject for alert in rows] for search, rows in pages.items()} == found


def test_a_change_is_found_by_its_object_or_who_made_it(browser: Client, most: None) -> None:
    LogEntry.objects.all().delete()
    alice = get_user_model().objects.get(username="alice")
    with acting_as(alice, "admin"):
        ApiKey.objects.get(name="mail-two").delete()
    with acting_as(None, "import"):
        ApiKey.objects.filter(name="Chat").get().delete()
    number = LogEntry.objects.get(object_repr="mail-two").object_pk
    found = {"AIL": ["mail-two"], "ch": ["Chat"], "ALICE": ["mail-two"], number: ["mail-two"], "mail chat": []}

    pages = {search: browser.get(CHANGES_PAGE, {"q": search}).context["cl"].result_list for search in found}

    whole = {
        search: [row.object_repr for row in rows if row.object_repr in ("mail-two", "Chat")]
        for search, rows in pages.items()
    }
    assert whole == found
