"""Compares the ledger with what a diary says really happened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from billing.journal_files import journal_folders
from billing.models import JournalOffset, TeamHour, UsageRecord, UsageRollup
from billing.rollups import input_tokens, output_tokens
from tests.billing.faults.worker import HELD, cost_of


class Books:
    """The rows, rollups and offsets of one database, and the diary of the provider and the clients."""

    def __init__(self, diary: Path, root: Path, using: str) -> None:
        lines = [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []
        self.root = root
        self.reached = {line[1]: (int(line[2]), int(line[3])) for line in lines if line[0] == "reached"}
        self.told = {line[1] for line in lines if line[0] == "told"}
        self.refused = sum(line[0] == "refused" for line in lines)
        self.rows = list(UsageRecord.objects.using(using).order_by("id"))
        self.rollups = list(UsageRollup.objects.using(using))
        self.team_hours = list(TeamHour.objects.using(using))
        self.offsets = list(JournalOffset.objects.using(using))

    def check(self, *, forgotten_offsets: int = 0) -> None:
        self._check_rows()
        self.check_sums()
        assert journal_folders(self.root) == []
        assert not (self.root / "rejected.jsonl").exists()
        assert len(self.offsets) <= forgotten_offsets

    def _check_rows(self) -> None:
        by_id = {row.pk: row for row in self.rows}
        assert len(by_id) == len(self.rows), "a request has two rows"
        assert self.told <= by_id.keys(), "a client heard the end of what is not in the ledger"
        assert self.reached.keys() <= by_id.keys(), "a request reached the provider and has no row"
        for request_id, row in by_id.items():
            if request_id in self.told or row.status != "interrupted":
                self._check_exact(row)
            else:
                self._check_estimate(row)

    def _check_exact(self, row: UsageRecord) -> None:
        """The gateway received the usage: to the unit what the provider counted."""
        assert row.status in {"completed", "cancelled"}
        assert (row.input, row.output) == self.reached[row.pk]
        assert row.cost_pico_usd == cost_of(*self.reached[row.pk])
        assert (row.needs_review, row.reserved_pico_usd) == (False, 0)

    def _check_estimate(self, row: UsageRecord) -> None:
        assert (row.usage_source, row.needs_review) == ("estimated", True)
        assert row.output in {0, 3}, "what the stream had brought when it was last noted"
        assert row.cost_pico_usd == cost_of(120, row.output) <= HELD
        strict = int(row.pk[1:]) % 2
        assert row.cost_pico_usd + row.reserved_pico_usd == (HELD if strict else row.cost_pico_usd)
        assert sum(attempt["cost_pico_usd"] for attempt in row.attempts) == row.cost_pico_usd

    def check_sums(self) -> None:
        """Rollups and hours of teams add up to the rows, and refusals to what was refused."""
        rows: Counter[tuple[str, str]] = Counter()
        for row in self.rows:
            rows += _counted(row.status, 1, input_tokens(vars(row)), output_tokens(vars(row)), row.cost_pico_usd)
        rollups: Counter[tuple[str, str]] = Counter()
        for sum_ in self.rollups:
            tokens = (sum_.input_tokens, sum_.output_tokens)
            rollups += _counted(sum_.status, sum_.requests, *tokens, sum_.cost_pico_usd)
        hours: Counter[tuple[str, str]] = Counter()
        for hour in self.team_hours:
            for statuses in hour.by_model.values():
                for status, (requests, read, written, cost, *_) in statuses.items():
                    hours += _counted(status, requests, read, written, cost)
        assert rollups == hours
        # A refusal may be journalled although the worker died before it could say so.
        assert rollups.pop(("refused", "requests"), 0) - self.refused in {0, 1}
        assert rollups == rows


def _counted(status: str, requests: int, read: int, written: int, cost: int) -> Counter[tuple[str, str]]:
    figures = {"requests": requests, "input": read, "output": written, "cost": cost}
    return Counter({(status, name): figure for name, figure in figures.items()})
