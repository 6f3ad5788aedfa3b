"""Credit that expires: what was spent of it stays, the rest falls away, and the one that expires first is spent first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from billing.credits import Span, parts_used, settle_expired
from billing.ledger import Drain, JournalDrain
from billing.models import Budget, BudgetCredit
from billing.services import budget_create, credit_add
from llmgateway.config_loader import load_snapshot
from tests.billing.conftest import MakeJournal
from tests.billing.records import NOON, write

START = datetime.fromtimestamp(NOON, UTC)
HOUR = timedelta(hours=1)


def test_what_expires_first_is_spent_first() -> None:
    spans = [Span(0, 30, 100), Span(0, 10, 100), Span(0, 20, 100)]

    parts = parts_used(spans, lambda start, _: {0.0: 70, 10.0: 130, 20.0: 10}[start])

    assert parts == [40, 70, 100]


def test_what_was_spent_before_a_credit_was_bought_is_none_of_its() -> None:
    spans = [Span(0, 30, 100), Span(10, 20, 100)]

    assert parts_used(spans, lambda start, _: {0.0: 500, 10.0: 60, 20.0: 5}[start]) == [100, 60]


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 50)).map(
            lambda each: Span(min(each[:2]), max(each[:2]), each[2])
        ),
        min_size=1,
        max_size=5,
    ),
    costs=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=12),
)
def test_nothing_is_counted_twice_and_no_more_than_there_was(spans: list[Span], costs: list[tuple[int, int]]) -> None:
    def spent(start: float, end: float) -> int:
        return sum(cost for at, cost in costs if start <= at < end)

    parts = parts_used(spans, spent)

    assert all(0 <= part <= span.amount_pico_usd for part, span in zip(parts, spans, strict=True))
    assert all(part <= spent(span.begins, span.ends) for part, span in zip(parts, spans, strict=True))
    assert sum(parts) <= sum(cost for _, cost in costs)


@pytest.mark.django_db(transaction=True)
class TestABudget:
    @pytest.fixture
    def budget(self) -> Budget:
        return budget_create(name="prepaid", window="total", limit_pico_usd=1_000)

    def limits(self, budget: Budget) -> tuple[int, int]:
        """As people are shown it, and as requests are admitted by."""
        rule = load_snapshot().budgets[budget.pk]
        fresh = Budget.objects.get(pk=budget.pk)
        return fresh.whole_limit_pico_usd(), rule.limit_at(datetime.now(UTC).timestamp())

    def spend(self, make_journal: MakeJournal, name: str, cost: int, at: datetime) -> None:
        journal = make_journal()
        write(journal, name, cost_pico_usd=cost, started_at=at.timestamp())
        JournalDrain(journal.folder, journal=journal).drain()

    def test_keeps_what_was_spent_of_its_credit(self, budget: Budget, make_journal: MakeJournal) -> None:
        with time_machine.travel(START, tick=False) as clock:
            credit_add(budget, 500, expires_at=START + HOUR)
            self.spend(make_journal, "before", 200, START + HOUR / 2)
            self.spend(make_journal, "after", 900, START + HOUR + timedelta(seconds=1))
            clock.move_to(START + HOUR / 2)
            assert self.limits(budget) == (1_500, 1_500)

            clock.move_to(START + HOUR + timedelta(seconds=11))
            assert self.limits(budget) == (1_000, 1_000)
            assert settle_expired() == 1

            assert self.limits(budget) == (1_200, 1_200)
            assert settle_expired() == 0

    def test_spends_the_first_to_expire_first(self, budget: Budget, make_journal: MakeJournal) -> None:
        with time_machine.travel(START, tick=False) as clock:
            credit_add(budget, 500, expires_at=START + 3 * HOUR)
            credit_add(budget, 300, expires_at=START + HOUR)
            credit_add(budget, 50)
            self.spend(make_journal, "one", 400, START + HOUR / 2)
            clock.move_to(START + 2 * HOUR)
            settle_expired()
            assert self.limits(budget) == (1_850, 1_850), "300 are spent; 100 of the other are, and it goes on"
            self.spend(make_journal, "two", 70, START + 2 * HOUR)
            clock.move_to(START + 4 * HOUR)

            settle_expired()

            assert self.limits(budget) == (1_000 + 300 + 170 + 50,) * 2

    def test_whose_credit_is_extended_has_all_of_it_again(self, budget: Budget) -> None:
        with time_machine.travel(START, tick=False) as clock:
            credit = credit_add(budget, 500, expires_at=START + HOUR)
            clock.move_to(START + 2 * HOUR)
            settle_expired()
            credit.refresh_from_db()
            assert credit.used_pico_usd == 0

            credit.expires_at = START + 3 * HOUR
            credit.save()

            assert self.limits(budget) == (1_500, 1_500)
            assert BudgetCredit.objects.get().used_pico_usd is None

    def test_for_each_end_user_loses_it_whole(self, make_journal: MakeJournal) -> None:
        budget = budget_create(name="each", window="total", limit_pico_usd=1_000, each="end_user")
        with time_machine.travel(START, tick=False) as clock:
            credit_add(budget, 500, expires_at=START + HOUR)
            clock.move_to(START + 2 * HOUR)

            assert settle_expired() == 0
            assert self.limits(budget) == (1_000, 1_000)

    def test_is_settled_by_the_drain(self, budget: Budget, make_journal: MakeJournal) -> None:
        with time_machine.travel(START, tick=False) as clock:
            credit_add(budget, 500, expires_at=START + HOUR)
            clock.move_to(START + 2 * HOUR)
            journal = make_journal()
            write(journal, "before", cost_pico_usd=200, started_at=(START + HOUR / 2).timestamp())

            Drain(journal)._pass()

            assert self.limits(budget) == (1_200, 1_200)

    def test_that_cannot_be_settled_does_not_make_the_ledger_ill(
        self, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(**_: str) -> int:
            raise ValueError("odd")

        monkeypatch.setattr("billing.ledger.settle_expired", fail)
        drain = Drain(make_journal())

        assert drain._pass()
        assert drain.healthy
        assert "expired credit" in caplog.text
