"""Thresholds of budgets: each fires once per window, whatever is edited meanwhile, and nobody is refused."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection, connections

from billing.alerts.check import delete_old_alerts, raise_alerts
from billing.alerts.notice import notify, recipients
from billing.alerts.spending import spent
from billing.journal import Journal
from billing.ledger import JournalDrain
from billing.models import Alert, Budget, BudgetCredit, Delivery, UsageRollup
from billing.money import PICO_PER_USD
from llmgateway.models import ApiKey, Membership, Team
from providers.models import Deployment, ModelAlias, Provider
from tests.billing.records import NOON, closed, opened
from tests.billing.reporters.receiver import make_reporter
from tests.cast import Cast

pytestmark = pytest.mark.django_db(transaction=True)

AT = datetime.fromtimestamp(NOON, UTC)


class Ledger:
    """Requests of the platform team's key, for so many dollars."""

    def __init__(self, journal: Journal, key: ApiKey) -> None:
        self._drain = JournalDrain(journal.folder, journal=journal)
        self._journal = journal
        self._key = key
        self._count = 0

    def spend(self, usd: float, **changes: Any) -> None:
        self._count += 1
        name = f"r{self._count}"
        self._journal.open(opened(name))
        row = {
            "key_id": str(self._key.pk), "team_id": self._key.team_id, "cost_pico_usd": int(usd * PICO_PER_USD),
            "started_at": NOON - 60, **changes,
        }  # fmt: skip
        self._journal.close(closed(name, **row))
        self._drain.drain()


@pytest.fixture
def ledger(journal: Journal, cast: Cast) -> Ledger:
    return Ledger(journal, cast.platform_key)


def make_budget(**values: Any) -> Budget:
    budget = Budget(**{"name": "month", "limit_pico_usd": 100 * PICO_PER_USD, "alerts": [50, 80, 100], **values})
    budget.full_clean()
    budget.save()
    return budget


def fired() -> list[int]:
    return list(Alert.objects.order_by("threshold").values_list("threshold", flat=True))


def test_a_threshold_fires_once(cast: Cast, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    make_budget(team=cast.platform)
    ledger.spend(49.99)
    assert raise_alerts(AT) == []

    ledger.spend(0.01)
    with caplog.at_level(logging.WARNING):
        [alert] = raise_alerts(AT)
    assert raise_alerts(AT + timedelta(minutes=1)) == []

    assert (alert.threshold, alert.settled_pico_usd) == (50, 50 * PICO_PER_USD)
    assert alert.window_start == datetime(2026, 3, 1, tzinfo=UTC)
    assert "The budget month has used $50" in caplog.text


def test_several_thresholds_at_once_fire_each(cast: Cast, ledger: Ledger) -> None:
    make_budget(key=cast.platform_key)
    ledger.spend(90)

    raise_alerts(AT)

    assert fired() == [50, 80]


def test_the_next_window_begins_anew(cast: Cast, ledger: Ledger) -> None:
    make_budget(team=cast.platform, window="day")
    ledger.spend(60)
    raise_alerts(AT)
    ledger.spend(60, started_at=NOON + 86_400)

    raise_alerts(AT + timedelta(days=1, minutes=1))

    assert fired() == [50, 50]


def test_what_is_settled_just_after_a_window_ended_still_counts(cast: Cast, ledger: Ledger) -> None:
    make_budget(team=cast.platform, window="hour")
    ledger.spend(60, started_at=NOON - 30)

    raise_alerts(AT + timedelta(minutes=5))

    assert Alert.objects.get().window_start == AT - timedelta(hours=1)


def test_a_raised_limit_fires_nothing_again_and_loses_nothing(cast: Cast, ledger: Ledger) -> None:
    budget = make_budget(team=cast.platform)
    ledger.spend(60)
    raise_alerts(AT)
    Budget.objects.filter(pk=budget.pk).update(limit_pico_usd=200 * PICO_PER_USD)
    ledger.spend(60)
    assert raise_alerts(AT) == []

    ledger.spend(45)
    raise_alerts(AT)

    assert fired() == [50, 80]


def test_a_lowered_limit_and_new_thresholds_fire_what_is_reached(cast: Cast, ledger: Ledger) -> None:
    budget = make_budget(team=cast.platform)
    ledger.spend(45)
    assert raise_alerts(AT) == []
    Budget.objects.filter(pk=budget.pk).update(limit_pico_usd=50 * PICO_PER_USD, alerts=[85, 90, 95])

    raise_alerts(AT)

    assert fired() == [85, 90]


def test_an_increase_holds_thresholds_back_until_it_ends(cast: Cast, ledger: Ledger) -> None:
    make_budget(
        team=cast.platform, increase_pico_usd=100 * PICO_PER_USD, increase_until=AT + timedelta(hours=1),
    )  # fmt: skip
    ledger.spend(90)
    assert raise_alerts(AT) == []

    raise_alerts(AT + timedelta(hours=2))

    assert fired() == [50, 80]


def test_prepaid_credit_belongs_to_the_limit(ledger: Ledger) -> None:
    budget = make_budget(window="total", limit_pico_usd=0)
    BudgetCredit.objects.create(budget=budget, amount_pico_usd=100 * PICO_PER_USD)
    ledger.spend(85)

    raise_alerts(AT)

    assert fired() == [50, 80]


def test_nothing_spent_reaches_nothing(cast: Cast) -> None:
    make_budget(team=cast.platform, limit_pico_usd=0)

    assert raise_alerts(AT) == []


def test_budgets_of_every_owner_are_watched(cast: Cast, ledger: Ledger) -> None:
    provider = Provider.objects.create(name="openai", adapter="openai_compatible", base_url="https://a.example/v1")
    deployment = Deployment.objects.create(name="main", provider=provider, model="x")
    alias = ModelAlias.objects.create(name="gpt-4o-mini")
    owners: list[dict[str, Any]] = [
        {"key": cast.platform_key}, {"team": cast.platform}, {"provider": provider}, {"deployment": deployment},
        {"alias": alias}, {},
    ]  # fmt: skip
    mine = [make_budget(name=f"b{number}", **owner) for number, owner in enumerate(owners)]
    other = make_budget(name="other", key=cast.research_key)
    ledger.spend(60)
    ledger.spend(20, started_at=NOON - 7200)

    found = {each.budget.pk: each.settled_pico_usd // PICO_PER_USD for each in spent(Budget.objects.all(), AT)}

    assert found == {**{budget.pk: 80 for budget in mine}, other.pk: 0}


def test_a_window_that_begins_within_an_hour_is_summed_exactly(cast: Cast, ledger: Ledger) -> None:
    Team.objects.filter(pk=cast.platform.pk).update(time_zone="Asia/Kolkata")
    make_budget(team=cast.platform, window="day")
    midnight = datetime(2026, 3, 13, 18, 30, tzinfo=UTC).timestamp()
    ledger.spend(1, started_at=midnight - 1)
    ledger.spend(2, started_at=midnight)
    ledger.spend(4, started_at=midnight + 3600)

    [found] = spent(Budget.objects.select_related("team"), AT)

    assert found.settled_pico_usd == 6 * PICO_PER_USD


def test_each_end_user_fires_for_itself(cast: Cast, ledger: Ledger) -> None:
    make_budget(team=cast.platform, each="end_user")
    ledger.spend(60, end_user="ana")
    ledger.spend(40, end_user="ben")

    raise_alerts(AT)
    raise_alerts(AT)

    assert list(Alert.objects.values_list("subject", "threshold")) == [("ana", 50)]


def test_reporters_that_want_it_are_told_once(cast: Cast, ledger: Ledger) -> None:
    url = "http://127.0.0.1:9/x"
    wants = make_reporter(url, reports_usage=False, reports_budgets=True)
    make_reporter(url, name="usage only")
    foreign = make_reporter(url, name="foreign", reports_usage=False, reports_budgets=True)
    foreign.teams.add(cast.research)
    make_budget(team=cast.platform)
    ledger.spend(60)
    Delivery.objects.all().delete()

    raise_alerts(AT)
    raise_alerts(AT)

    delivery = Delivery.objects.get()
    assert (delivery.reporter, delivery.type) == (wants, "budget.threshold")
    assert json.loads(delivery.payload) == {
        "type": "budget.threshold", "budget": "month", "budget_id": Budget.objects.get().pk, "team": "platform",
        "key": "", "subject": "", "window": "month", "window_start": "2026-03-01T00:00:00.000000Z",
        "threshold_percent": 50, "settled_usd": "60", "limit_usd": "100", "timestamp": "2026-03-14T12:00:00.000000Z",
    }  # fmt: skip


def test_managers_of_the_team_get_one_letter(cast: Cast, ledger: Ledger) -> None:
    Membership.objects.create(team=cast.platform, user=cast.charlie, role=Membership.Role.MEMBER)
    budget = make_budget(team=cast.platform)
    ledger.spend(60)
    raise_alerts(AT)

    assert (notify(AT), notify(AT)) == (1, 0)

    [letter] = mail.outbox
    assert letter.bcc == recipients(budget) == ["bob@example.org"]
    assert letter.subject == "50 % of the budget month are used"
    assert "$60" in letter.body
    assert Alert.objects.get().notified_at == AT


def test_owners_hear_of_budgets_that_belong_to_no_team(cast: Cast) -> None:
    assert recipients(make_budget()) == ["alice@example.org"]


def test_a_letter_that_could_not_be_sent_is_tried_again(cast: Cast, ledger: Ledger, settings: Any) -> None:
    make_budget(team=cast.platform)
    ledger.spend(60)
    raise_alerts(AT)
    backend, settings.EMAIL_BACKEND = settings.EMAIL_BACKEND, "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 1

    assert notify(AT) == 0
    assert "refused" in Alert.objects.get().notice_error
    settings.EMAIL_BACKEND = backend
    assert notify(AT + timedelta(minutes=4)) == 0
    assert notify(AT + timedelta(minutes=5)) == 1


def test_alerts_of_totals_are_kept(cast: Cast, ledger: Ledger) -> None:
    make_budget(name="total", window="total")
    make_budget(name="day", window="day")
    ledger.spend(60)
    raise_alerts(AT)

    delete_old_alerts(AT + timedelta(days=401))

    assert list(Alert.objects.values_list("budget__name", flat=True)) == ["total"]


@pytest.mark.postgres
def test_two_workers_fire_once_on_postgresql(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The product knows one database only, so that the other one takes its place here.
    default = connections.databases["default"]
    monkeypatch.setitem(connections.databases, "default", connections.databases[postgres])
    connection.close()
    del connections["default"]
    try:
        team = Team.objects.create(name="platform")
        make_budget(team=team)
        start = datetime(2026, 3, 1, tzinfo=UTC)
        UsageRollup.objects.create(hour=start, team_id=team.pk, status="completed", cost_pico_usd=60 * PICO_PER_USD)
        found: list[list[Alert]] = []
        begin = threading.Barrier(4)

        def work() -> None:
            begin.wait()
            found.append(raise_alerts(AT))
            connections.close_all()

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)

        assert sorted(len(each) for each in found) == [0, 0, 0, 1]
    finally:
        connections["default"].close()
        del connections["default"]
        connections.databases["default"] = default
