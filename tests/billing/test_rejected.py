"""Records that the database refused come back once their cause is mended, each once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from billing import rejected
from billing.journal import Journal
from billing.journal_files import from_json, to_json
from billing.ledger import JournalDrain
from billing.models import UsageRecord, UsageRollup
from billing.rejected import FILE, rejected_lines, replay
from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from tests.billing.records import closed, write
from tests.billing.test_ledger import REFUSAL, failing

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def root(journal: Journal) -> Path:
    """A folder of journals beside which two records and a refusal were set aside."""
    write(journal, "a")
    write(journal, "bad", cost_pico_usd=2**63)
    journal.refused([{**REFUSAL, "count": 2**63}])
    write(journal, "worse", input=None)
    JournalDrain(journal.folder, journal=journal).drain()
    assert list(UsageRecord.objects.values_list("id", flat=True)) == ["a"]
    assert rejected_lines(journal.folder.parent) == 3
    return journal.folder.parent


def mend(root: Path) -> None:
    """What an operator does with an editor."""
    text = (root / FILE).read_bytes()
    text = text.replace(str(2**63).encode(), b"12").replace(b'"input":null', b'"input":90')
    (root / FILE).write_bytes(text)


def counted() -> dict[str, int]:
    return dict(UsageRollup.objects.values_list("status", "requests"))


def test_mended_lines_are_stored_and_the_file_is_emptied(root: Path) -> None:
    mend(root)

    done = replay(root)

    assert (done.rows, done.known, done.refused) == (2, 0, [])
    assert dict(UsageRecord.objects.values_list("id", "cost_pico_usd")) == {
        "a": 30_000_000, "bad": 12, "worse": 30_000_000,
    }  # fmt: skip
    assert counted() == {"completed": 3, "refused": 12}
    assert (root / FILE).read_bytes() == b""


def test_a_second_replay_adds_nothing(root: Path) -> None:
    mend(root)
    lines = (root / FILE).read_bytes()
    replay(root)
    (root / FILE).write_bytes(lines)  # As if the process had died before the file was emptied.

    done = replay(root)

    assert (done.rows, done.known) == (0, 3)
    assert counted() == {"completed": 3, "refused": 12}


def test_a_request_that_has_its_row_gets_no_second_one(root: Path) -> None:
    content = {"journal": "x", "error": "", "close": [closed("a")], "refused": []}
    (root / FILE).write_bytes(to_json(content) + b"\n")

    assert replay(root).rows == 0
    assert counted() == {"completed": 1}


def test_lines_that_are_refused_again_stay_and_stop_no_other(root: Path) -> None:
    text = (root / FILE).read_bytes().replace(b'"input":null', b'"input":90')
    (root / FILE).write_bytes(b"no JSON\n" + text)

    done = replay(root)

    assert done.rows == 1
    assert [told.partition(":")[0] for told in done.refused] == ["line 1", "line 2", "line 3"]
    assert rejected_lines(root) == 4
    assert replay(root).known == 1


def test_while_the_database_is_away_every_line_stays(root: Path) -> None:
    mend(root)

    def away(*_: object) -> None:
        raise OperationalError("the server is gone")

    with failing(rejected, "insert", away), pytest.raises(OperationalError):
        replay(root)

    assert rejected_lines(root) == 3
    assert replay(root).rows == 2


def test_a_line_says_when_and_why(root: Path) -> None:
    line = from_json((root / FILE).read_bytes().splitlines()[0])

    assert line["error"]
    assert line["at"].startswith("20")


def test_the_command_tells_what_it_did(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = Conf({"GATEWAY_DATA_DIR": str(root.parent)})
    assert conf.journal_dir == root
    monkeypatch.setattr(conf_module, "conf", conf)
    with pytest.raises(CommandError, match="3 lines are still refused"):
        call_command("replay_rejected", stdout=io.StringIO(), stderr=io.StringIO())

    mend(root)
    call_command("replay_rejected", stdout=(told := io.StringIO()))
    call_command("replay_rejected", stdout=told)

    assert told.getvalue().splitlines() == [
        "2 rows stored; 0 lines had been stored before.",
        "0 rows stored; 0 lines had been stored before.",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"input": 1.5}, {"input": True}, {"alias": ["a"] * 3}, {"alias": ["a"] * 900}, {"key_name": {}}, {"alias": None},
        {"team_id": "x"}, {"priced": "maybe"}, {"http_status": "200"}, {"started_at": "now"}, {"started_at": 1e12},
        {"admitted_at": 1e12}, {"admitted_at": -1e12}, {"admitted_at": 1e300},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_another_kind_is_set_aside_and_holds_up_none(journal: Journal, change: dict[str, Any]) -> None:
    for number in range(8):
        write(journal, f"before-{number}")
    write(journal, "poison", **change)
    write(journal, "after")
    drain = JournalDrain(journal.folder, journal=journal)

    drain.drain()
    drain.drain()

    assert UsageRecord.objects.count() == 9
    assert counted() == {"completed": 9}
    assert rejected_lines(journal.folder.parent) == 1
