"""Reporters in the file: written as they are, their secrets never."""

from __future__ import annotations

import pytest

from billing.models import UsageReporter
from llmgateway.config_file.export import export_text
from llmgateway.config_file.report import MASK
from llmgateway.models import Team
from tests.billing.reporters.receiver import SECRET
from tests.llmgateway.config_file.conftest import Environment, load, problems

pytestmark = pytest.mark.django_db

HEADER = "Bearer header-never-written"
FILE = f"""
teams:
  red: {{}}
reporters:
  invoicing:
    url: https://93.184.216.34/usage
    secret: {SECRET}
    headers: {{Authorization: {HEADER}, X-Tenant: "env:TENANT"}}
    budgets: true
    statuses: [completed, cancelled]
    teams: [red]
    api_key: masked
    cost: false
    batch_size: 50
  warehouse:
    kind: database
    url: postgres://bill@93.184.216.34/usage
    secret: env:WAREHOUSE_PASSWORD
"""


def test_a_reporter_becomes_a_row() -> None:
    load(FILE)

    row = UsageReporter.objects.get(name="invoicing")
    assert (row.kind, row.reports_usage, row.reports_budgets, row.api_key_field) == ("webhook", True, True, "masked")
    assert (row.statuses, row.includes_cost, row.batch_size, row.enabled) == (
        ["completed", "cancelled"],
        False,
        50,
        True,
    )
    assert list(row.teams.all()) == [Team.objects.get(name="red")]
    assert (row.stored_secret(), row.stored_headers()) == (SECRET, {"Authorization": HEADER, "X-Tenant": "env:TENANT"})
    assert UsageReporter.objects.get(name="warehouse").stored_secret() == "env:WAREHOUSE_PASSWORD"


def test_a_second_import_changes_nothing() -> None:
    load(FILE)

    assert load(FILE).changes == []


def test_secrets_are_masked_in_the_diff_and_left_out_of_an_export(environment: Environment) -> None:
    first = load(FILE)
    told = "\n".join(line for change in first.changes for line in change.lines())
    exported = export_text()

    for text in (told, exported):
        assert SECRET not in text
        assert HEADER not in text
    assert MASK in told
    assert "env:WAREHOUSE_PASSWORD" in exported
    assert load(exported.replace("version: 1\n", "")).changes == []
    row = UsageReporter.objects.get(name="invoicing")
    assert (row.stored_secret(), row.stored_headers()["Authorization"]) == (SECRET, HEADER)
    assert "${REPORTER_INVOICING_SECRET}" in export_text(secrets_as_variables=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((f"    secret: {SECRET}\n", ""), "A new webhook needs the `secret`"),
        ((SECRET, "short"), "Write whsec_"),
        (("statuses: [completed, cancelled]", "statuses: [done]"), "no way in which requests end"),
        (("teams: [red]", "teams: [blue]"), "There is no team blue"),
        (("https://93.184.216.34", "https://10.0.0.7"), "private network"),
        (("bill@93", "bill:pw@93"), "it is the secret"),
        (("batch_size: 50", "batch_size: 501"), "from 1 to 500"),
        (("X-Tenant", "Host"), "set by the gateway"),
        (("cost: false", "costs: false"), "Did you mean `cost`?"),
    ],
)
def test_what_cannot_be_is_told_at_its_place(change: tuple[str, str], message: str) -> None:
    assert message in " ".join(problems(FILE.replace(*change)))
    assert not UsageReporter.objects.exists()


def test_an_unnamed_reporter_goes_only_with_prune() -> None:
    load(FILE)

    assert "reporter invoicing" in load("").kept
    load("", prune=True)

    assert not UsageReporter.objects.exists()
