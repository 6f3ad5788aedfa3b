"""What becomes of the requests of a worker that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from billing import adoption, ledger
from billing.adoption import adopt_orphans, open_requests, settle_interrupted
from billing.journal_files import OPEN, Ownership, frame, segment_numbers, segment_path, to_json
from billing.ledger import drain_orphans
from billing.models import JournalOffset, UsageRecord, UsageRollup
from llmgateway.pipeline.protocols import Record
from llmgateway.recount import orphans
from tests.billing.conftest import MakeJournal
from tests.billing.records import opened, write

TOKENS = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input",
    "output", "reasoning", "audio_output",
)  # fmt: skip

pytestmark = pytest.mark.django_db(transaction=True)

WRITER = """
import sys
from pathlib import Path
from billing.journal import Journal
from tests.billing.records import closed, opened
journal = Journal(Path(sys.argv[1]), max_bytes=2**30, segment_bytes=20_000)
number = 0
while True:
    journal.open(opened(f"{number}-open"))
    journal.open(opened(f"{number}"))
    journal.close(closed(f"{number}"))
    # Only now does the client hear of it.
    print(number, flush=True)
    if number % 3:
        journal.close(closed(f"{number}-open"))
    number += 1
"""


def rows() -> dict[str, UsageRecord]:
    return {row.pk: row for row in UsageRecord.objects.all()}


def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    root = tmp_path / "journal"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [next(writer.stdout) for _ in range(200)]
        assert drain_orphans(root) == 0, "the writer lives, its journal is its own"
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()

    stored = drain_orphans(root)

    found = rows()
    heard = [line.strip() for line in told]
    assert all(found[number].status == "completed" for number in heard)
    assert len(found) == stored == sum(UsageRollup.objects.values_list("requests", flat=True))
    assert {found[f"{number}-open"].status for number in heard if int(number) % 3 == 0} == {"interrupted"}
    assert list(root.iterdir()) == []
    assert JournalOffset.objects.count() == 0


def test_a_request_that_reached_a_provider_is_estimated(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", input_estimate=100, input_price=150_000, output_price=600_000))
    journal.progress([("a", 3)])
    journal.progress([("a", 8), ("unknown", 9)])
    journal.stop()

    drain_orphans(journal.folder.parent)

    row = rows()["a"]
    assert (row.status, row.usage_source, row.input, row.output) == ("interrupted", "estimated", 100, 8)
    assert row.cost_pico_usd == 100 * 150_000 + 8 * 600_000
    assert (row.provider, row.price_id, row.priced, row.held_pico_usd) == ("openai", 5, True, 90_000_000)
    assert row.started_at.timestamp() == opened("a")["started_at"]


def test_the_last_attempt_is_charged(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", input_estimate=10))
    spare = {"provider": "spare", "deployment": "s1", "model": "m", "price_id": 6, "input_price": 7, "output_price": 1}
    journal.attempt("a", spare)
    journal.stop()

    drain_orphans(journal.folder.parent)

    row = rows()["a"]
    assert (row.provider, row.deployment, row.price_id, row.cost_pico_usd) == ("spare", "s1", 6, 70)
    assert [(attempt["deployment"], attempt["cost_pico_usd"]) for attempt in row.attempts] == [("main", 0), ("s1", 70)]


def test_the_way_to_the_last_attempt_is_kept(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", via="pool"))
    journal.attempt("a", {"provider": "spare", "deployment": "s1", "model": "m", "price_id": 6, "via": "cheap pool"})
    journal.open(opened("b", via="pool"))
    journal.attempt("b", {"provider": "spare", "deployment": "s1", "model": "m", "price_id": 6})
    journal.stop()

    drain_orphans(journal.folder.parent)

    assert {name: row.via for name, row in rows().items()} == {"a": "cheap pool", "b": ""}


def test_what_a_caller_s_own_key_paid_is_still_nobody_s_here(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", own_key="ab" * 32, price_id=None, input_price=None, output_price=None, held_pico_usd=0))
    journal.stop()

    drain_orphans(journal.folder.parent)

    row = rows()["a"]
    assert (row.own_key, row.cost_pico_usd, row.priced, row.needs_review) == ("ab" * 32, 0, True, False)


class TestRace:
    """Two attempts of one request at the same time."""

    FIRST = {"input_estimate": 10, "input_price": 3, "output_price": 5, "strict_pico_usd": 200}
    SECOND = {
        "provider": "spare", "deployment": "s1", "model": "m", "price_id": 6, "input_price": 7, "output_price": 1,
        "strict_pico_usd": 300, "hedge": True,
    }  # fmt: skip

    @staticmethod
    def adopted(make_journal: MakeJournal, first: Record, *attempts: Record, output: int = 0) -> UsageRecord:
        journal = make_journal()
        journal.open(opened("a", **first))
        for attempt in attempts:
            journal.attempt("a", attempt)
        journal.progress([("a", output)])
        journal.stop()
        drain_orphans(journal.folder.parent)
        return rows()["a"]

    def test_both_are_charged_while_nobody_has_won(self, make_journal: MakeJournal) -> None:
        row = self.adopted(make_journal, self.FIRST, self.SECOND)

        assert [(each["deployment"], each["cost_pico_usd"]) for each in row.attempts] == [("main", 30), ("s1", 70)]
        assert (row.cost_pico_usd, row.reserved_pico_usd) == (100, 500 - 100)
        assert row.attempts[1]["hedge"] is True

    def test_no_more_than_each_of_them_holds(self, make_journal: MakeJournal) -> None:
        row = self.adopted(make_journal, {**self.FIRST, "strict_pico_usd": 20}, {**self.SECOND, "strict_pico_usd": 40})

        assert (row.cost_pico_usd, row.reserved_pico_usd) == (60, 0)

    def test_the_one_that_lost_costs_what_was_noted(self, make_journal: MakeJournal) -> None:
        won = {**self.SECOND, "won": True, "lost_pico_usd": 44}
        row = self.adopted(make_journal, self.FIRST, self.SECOND, won, output=6)

        assert [each["cost_pico_usd"] for each in row.attempts] == [44, 70 + 6 * 1]
        assert (row.deployment, row.cost_pico_usd, row.reserved_pico_usd) == ("s1", 120, 300 - 76)

    def test_the_first_may_have_won(self, make_journal: MakeJournal) -> None:
        won = {"provider": "openai", "deployment": "main", "model": "gpt-4o-mini", "price_id": 5, "input_price": 3,
               "output_price": 5, "strict_pico_usd": 200, "won": True, "lost_pico_usd": 70}  # fmt: skip
        row = self.adopted(make_journal, self.FIRST, self.SECOND, won, output=6)

        assert [each["cost_pico_usd"] for each in row.attempts] == [30 + 6 * 5, 70]
        assert (row.deployment, row.cost_pico_usd) == ("main", 130)

    def test_after_both_have_failed_the_next_alone_is_charged(self, make_journal: MakeJournal) -> None:
        third = {**self.SECOND, "deployment": "t1", "hedge": False}
        row = self.adopted(make_journal, self.FIRST, self.SECOND, third)

        assert [each["cost_pico_usd"] for each in row.attempts] == [0, 0, 70]

    def test_what_it_held_beside_is_given_back_to_shared_counters(self, make_journal: MakeJournal) -> None:
        row = self.adopted(make_journal, self.FIRST, self.SECOND)
        record = {
            name: getattr(row, name) for name in ("id", "cost_pico_usd", "counted", "reserved_pico_usd", "attempts")
        }
        tokens = dict.fromkeys(TOKENS, 0)

        found = orphans([record | tokens])

        assert [(each.id, each.cost_pico_usd, each.reserved_pico_usd) for each in found] == [
            ("a", 100, 400),
            ("a#h", 0, 0),
        ]


def test_what_an_attempt_cost_that_brought_nothing_is_kept(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", input_estimate=10))
    spare = {"provider": "spare", "deployment": "s1", "model": "m", "price_id": 6, "input_price": 7, "output_price": 1}
    journal.attempt("a", {**spare, "lost_pico_usd": 55})
    journal.stop()

    drain_orphans(journal.folder.parent)

    assert [attempt["cost_pico_usd"] for attempt in rows()["a"].attempts] == [55, 70]
    assert rows()["a"].cost_pico_usd == 125


def test_a_request_that_reached_no_provider_costs_nothing(make_journal: MakeJournal) -> None:
    journal = make_journal()
    nowhere = dict.fromkeys(("provider", "deployment", "model", "price_id", "input_price", "output_price"))
    journal.open(opened("a", **nowhere))
    journal.stop()

    drain_orphans(journal.folder.parent)

    row = rows()["a"]
    assert (row.status, row.cost_pico_usd, row.usage_source, row.input, row.provider) == (
        "interrupted",
        0,
        "none",
        0,
        "",
    )


def test_without_a_price_it_is_unpriced_not_free(make_journal: MakeJournal) -> None:
    journal = make_journal()
    journal.open(opened("a", price_id=None, input_price=None, output_price=None))
    journal.stop()

    drain_orphans(journal.folder.parent)

    assert (rows()["a"].priced, rows()["a"].cost_pico_usd) == (False, 0)


def test_at_the_default_price_it_is_charged_and_says_so(make_journal: MakeJournal) -> None:
    journal = make_journal()
    at_default = {"price_id": None, "input_price": 5, "output_price": 6, "request_price": 7, "default_price": True}
    journal.open(opened("a", **at_default))
    journal.stop()

    drain_orphans(journal.folder.parent)

    row = rows()["a"]
    assert (row.priced, row.default_price, row.cost_pico_usd) == (False, True, 100 * 5 + 7)
    assert row.attempts[0]["default_price"] == {"input": 5, "output": 6, "request": 7}


@pytest.mark.parametrize("step", ["before", "settled", "drained", "half deleted", "folder deleted"])
def test_an_adopter_may_die_at_any_point(make_journal: MakeJournal, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make_journal(segment_bytes=1000)
    write(journal, "a", "b", "c")
    journal.open(opened("d"))
    journal.stop()
    root = journal.folder.parent
    if step == "before":
        (journal.folder / "00000099.part").write_bytes(b"half a segment")
    elif step == "settled":
        settle_interrupted(journal.folder)
    else:
        method = {"drained": "delete_folder", "half deleted": "delete_folder", "folder deleted": ""}[step]

        def die(owner: Ownership) -> None:
            if step == "half deleted":
                segment_path(owner.folder, segment_numbers(owner.folder)[0]).unlink()
            raise KeyboardInterrupt

        if method:
            with monkeypatch.context() as patch:
                patch.setattr(Ownership, method, die)
                with pytest.raises(KeyboardInterrupt):
                    drain_orphans(root)
        else:
            [owner] = adopt_orphans(root)
            ledger.JournalDrain(owner.folder).drain()
            owner.delete_folder()

    drain_orphans(root)

    assert sorted(rows()) == ["a", "b", "c", "d"]
    assert sum(UsageRollup.objects.values_list("requests", flat=True)) == 4
    assert not journal.folder.exists()


def test_two_adopters_never_share_a_journal(make_journal: MakeJournal) -> None:
    journal = make_journal()
    write(journal, "a")
    journal.stop()

    first = list(adopt_orphans(journal.folder.parent))
    second = list(adopt_orphans(journal.folder.parent))

    assert [owner.folder for owner in first] == [journal.folder]
    assert second == []
    first[0].release()


def test_a_torn_tail_and_corrupt_bytes_block_nothing(
    make_journal: MakeJournal, caplog: pytest.LogCaptureFixture
) -> None:
    journal = make_journal()
    write(journal, "a", "b")
    journal.open(opened("c"))
    journal.stop()
    path = segment_path(journal.folder, 1)
    content = path.read_bytes()
    place = content.rindex(b'"id":"b"')  # In its close.
    torn = frame(OPEN, to_json(opened("torn")))[:-9]
    path.write_bytes(content[:place] + b"\0" * 8 + content[place + 8 :] + torn)

    drain_orphans(journal.folder.parent)

    statuses = {name: row.status for name, row in rows().items()}
    assert statuses == {"a": "completed", "b": "interrupted", "c": "interrupted"}
    assert "unreadable" in caplog.text
    assert not journal.folder.exists()


def test_an_unreadable_journal_stops_no_other(
    make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, good = make_journal(), make_journal()
    write(broken, "a")
    write(good, "b")
    broken.stop()
    good.stop()
    real = adoption.settle_interrupted

    def settle(folder: Path) -> int:
        if folder == broken.folder:
            raise OSError(5, "Input/output error")
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "settle_interrupted", settle)
        drain_orphans(good.folder.parent)

    assert list(rows()) == ["b"]
    assert "cannot be read" in caplog.text
    drain_orphans(good.folder.parent)
    assert sorted(rows()) == ["a", "b"]


def test_a_folder_that_never_became_a_journal_is_swept(make_journal: MakeJournal) -> None:
    root = make_journal().folder.parent
    unborn = root / ".20260314T120000000000-abc"
    unborn.mkdir()
    (unborn / "owner.lock").touch()
    drain_orphans(root)
    assert unborn.exists(), "its worker may just be starting"

    os.utime(unborn, (1, 1))
    drain_orphans(root)

    assert not unborn.exists()


def test_open_requests_of_a_running_worker_are_seen(make_journal: MakeJournal) -> None:
    journal = make_journal()
    write(journal, "a")
    journal.open(opened("b"))
    journal.progress([("b", 4)])

    found = open_requests(journal.folder, live=True)

    assert list(found) == ["b"]
    assert found["b"].output_tokens == 4
