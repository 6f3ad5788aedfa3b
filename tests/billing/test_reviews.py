"""What a strict budget stays charged for a request whose worker died, and how a person releases it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from billing.ledger import drain_orphans
from billing.models import UsageRecord
from billing.reviews import mark_reviewed
from tests.billing.conftest import MakeJournal
from tests.billing.records import NOON, opened

pytestmark = pytest.mark.django_db(transaction=True)
LEDGER = "/admin/billing/usagerecord/"


def interrupted(make_journal: MakeJournal, **changes: object) -> UsageRecord:
    """The row of a request that was running when its worker died."""
    journal = make_journal()
    journal.open(opened("a", input_estimate=100, input_price=10, output_price=20, **changes))
    journal.progress([("a", 8)])
    journal.stop()
    drain_orphans(journal.folder.parent)
    return UsageRecord.objects.get()


def test_the_price_per_request_is_charged(make_journal: MakeJournal) -> None:
    row = interrupted(make_journal, request_price=7_000)

    assert row.cost_pico_usd == 100 * 10 + 8 * 20 + 7_000


def test_the_rest_of_a_strict_hold_stays_charged(make_journal: MakeJournal) -> None:
    row = interrupted(make_journal, strict_pico_usd=50_000)

    assert (row.cost_pico_usd, row.reserved_pico_usd) == (1160, 50_000 - 1160)
    assert (row.needs_review, row.over_hold, row.reviewed_at, row.reviewed_by) == (True, False, None, "")


def test_an_estimate_never_exceeds_a_strict_hold(make_journal: MakeJournal) -> None:
    row = interrupted(make_journal, strict_pico_usd=1_000)

    assert (row.cost_pico_usd, row.reserved_pico_usd, row.attempts[0]["cost_pico_usd"]) == (1_000, 0, 1_000)


def test_without_a_strict_budget_nothing_is_reserved(make_journal: MakeJournal) -> None:
    row = interrupted(make_journal)

    assert (row.needs_review, row.reserved_pico_usd) == (True, 0)


def test_the_hold_of_the_last_attempt_counts(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", input_estimate=10, strict_pico_usd=50_000))
    spare = {"provider": "spare", "deployment": "s1", "model": "m", "price_id": 6, "input_price": 7, "output_price": 1}
    journal.attempt("a", {**spare, "request_price": 3, "strict_pico_usd": 500})
    journal.stop()
    drain_orphans(journal.folder.parent)

    row = UsageRecord.objects.get()
    assert (row.cost_pico_usd, row.reserved_pico_usd) == (73, 427)


def test_a_request_that_reached_no_provider_needs_no_review(make_journal: MakeJournal) -> None:
    nowhere = dict.fromkeys(("provider", "deployment", "model", "price_id"))
    row = interrupted(make_journal, strict_pico_usd=50_000, **nowhere)

    assert (row.needs_review, row.reserved_pico_usd, row.cost_pico_usd) == (False, 0, 0)


def test_a_row_says_when_it_was_admitted(make_journal: MakeJournal) -> None:
    row = interrupted(make_journal, admitted_at=NOON + 0.5)

    assert row.admitted_at is not None
    assert row.admitted_at.timestamp() == NOON + 0.5


def test_a_review_is_recorded_once(make_journal: MakeJournal) -> None:
    interrupted(make_journal, strict_pico_usd=50_000)

    assert mark_reviewed(UsageRecord.objects.all(), by="alice") == 1
    assert mark_reviewed(UsageRecord.objects.all(), by="bob") == 0

    row = UsageRecord.objects.get()
    assert (row.needs_review, row.reviewed_by, row.reserved_pico_usd) == (False, "alice", 48_840)
    assert row.reviewed_at is not None


@pytest.mark.parametrize(("group", "left"), [("Admins", False), ("Auditors", True)])
def test_admins_review_in_the_ledger_and_auditors_cannot(
    make_journal: MakeJournal, client: Client, group: str, *, left: bool
) -> None:
    interrupted(make_journal, strict_pico_usd=500_000_001_160)
    alice = User.objects.create_user("alice", is_staff=True)
    alice.groups.add(Group.objects.get(name=group))
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")

    page = client.get(LEDGER, {"review": "needed"})
    client.post(LEDGER, {"action": "mark_as_reviewed", "_selected_action": ["a"]})

    assert b"$0.5" in client.get(f"{LEDGER}a/change/").content
    assert page.status_code == 200
    assert UsageRecord.objects.get().needs_review is left
