"""Indexes for searches on a real PostgreSQL: that they are there, that searches use them, and what happens without."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from llmgateway import search_indexes
from llmgateway.management.commands import doctor
from llmgateway.management.preparation import migrate_if_needed
from llmgateway.management_api.tokens import token_create
from llmgateway.models import ApiKey
from llmgateway.search_indexes import ensure_indexes, missing_indexes
from llmgateway.searches import part_of
from tests.cast import create_cast
from tests.llmgateway.admin.world import World, create_world

pytestmark = [pytest.mark.postgres, pytest.mark.usefixtures("_on_postgres")]
OF_PARTS = ["search_key_name", "search_budget_name", "search_change_name"]


def execute(statement: str) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(statement)


def missing() -> list[str]:
    return [index.name for index in missing_indexes(connections["default"])]


@pytest.fixture
def no_extension() -> None:
    execute("DROP EXTENSION pg_trgm CASCADE")


@pytest.fixture
def world(_on_postgres: None) -> World:
    return create_world(create_cast())


@pytest.fixture
def owner(world: World) -> Client:
    """Alice in the admin, and a program that may read everything."""
    _, secret = token_create(name="reader", scopes=["keys:read", "limits:read", "budgets:read"])
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    client.force_login(world.cast.alice, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_migrations_make_all() -> None:
    assert missing() == []
    assert ensure_indexes() == []


def test_a_start_makes_those_that_a_restored_database_lacks(no_extension: None) -> None:
    execute("DROP INDEX search_key_owner")
    assert sorted(missing()) == sorted([*OF_PARTS, "search_key_owner"])

    assert migrate_if_needed() is False

    assert missing() == []


def test_without_the_extension_the_others_are_made(no_extension: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_indexes, "EXTENSION", "no_such_extension")
    execute("DROP INDEX search_key_owner")

    assert ensure_indexes() == ["search_key_owner"]

    assert missing() == OF_PARTS
    finding = doctor.searches()
    assert (finding.level, finding.found) == (doctor.WARNING, "3 missing: searches read all names")


@pytest.fixture
def stranger() -> Iterator[None]:
    """The gateway's role may not change the schema."""
    execute("CREATE ROLE search_stranger")
    execute("SET ROLE search_stranger")
    yield
    execute("RESET ROLE")
    execute("DROP ROLE search_stranger")


def test_who_may_not_make_them_starts_all_the_same(
    no_extension: None, stranger: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="llmgateway.search_indexes"):
        assert ensure_indexes() == []

    assert "create the extension `pg_trgm` as an admin of the database" in caplog.text


@pytest.mark.parametrize(
    ("path", "used"),
    [
        ("/admin/llmgateway/apikey/?q=platform", {"search_key_name", "search_key_public_id", "search_key_owner"}),
        ("/manage/api/v1/keys?search=platform", {"search_key_name", "search_key_public_id", "search_key_owner"}),
        ("/admin/billing/budget/?q=platform", {"search_key_name", "search_budget_name"}),
        ("/manage/api/v1/budgets?search=platform", {"search_key_name", "search_budget_name"}),
        ("/manage/api/v1/limits?search=platform", {"search_key_name", "search_limit_model", "limit_per_key"}),
        ("/admin/billing/alert/?q=platform", {"search_budget_name", "search_alert_subject"}),
        ("/admin/auditlog/logentry/?q=platform", {"search_change_name", "search_change_id"}),
    ],
    ids=["keys", "keys by API", "budgets", "budgets by API", "limits by API", "alerts", "changes"],
)
def test_searches_use_them(owner: Client, path: str, used: set[str]) -> None:
    with CaptureQueriesContext(connection) as asked:
        assert owner.get(path).status_code == 200

    statements = [query["sql"] for query in asked.captured_queries if "UPPER(" in query["sql"]]
    with connections["default"].cursor() as cursor:
        # Of tables this small a planner reads all rows, if it is not told that this costs too much.
        cursor.execute("SET enable_seqscan = off")
        plans = ""
        for statement in statements:
            cursor.execute(f"EXPLAIN {statement}")
            plans += "\n".join(line for (line,) in cursor.fetchall())
    assert {name for name in used if name not in plans} == set()
    assert re.findall(r"Seq Scan on (\w*(?:apikey|ratelimit|budget|alert|logentry))\b", plans) == []


@pytest.mark.parametrize(
    ("word", "indexed"), [("zz", False), ("z-", False), ("-z", True), ("zzz", True), ("äöü", True)]
)
def test_what_has_no_three_letters_is_read_through_at_once(word: str, indexed: bool) -> None:
    """An index of three letters would have every row looked at, and then again."""
    asked = str(ApiKey.objects.filter(part_of("name", word)).query)

    assert ("LIKE" in asked) is indexed
