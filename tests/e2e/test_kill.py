"""`kill -9` under load: what clients received is in the ledger once, at what the provider billed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import (
    INPUT_PRICE,
    KEY,
    OUTPUT_PRICE,
    Child,
    Product,
    environment,
    running_product,
    running_provider,
    wait_for,
)
from tests.e2e.witness import NUMBER, Diary, received_so_far

STRICT_KEY = "sk-gw-careful000-0123456789abcdefghij"
THRIFTY_KEY = "sk-gw-thrifty000-0123456789abcdefghij"
HOPEFUL_KEY = "sk-gw-hopeful000-0123456789abcdefghij"
CALLERS = {"app": KEY, "careful": STRICT_KEY, "thrifty": THRIFTY_KEY, "hopeful": HOPEFUL_KEY}
STRICT = frozenset({"careful", "thrifty"})
"""Those whose whole hold stays charged when nobody knows what was used."""
BUDGETS = f"""
  careful:
    team: platform
    secret: {STRICT_KEY}
    budgets: [{{name: careful, window: total, limit_usd: "1000", mode: strict}}]
  thrifty:
    team: others
    secret: {THRIFTY_KEY}
    limits: [{{metric: tokens, per: day, amount: 100000000}}, {{metric: concurrency, amount: 64}}]
    budgets:
      - {{name: daily, window: day, limit_usd: "500", mode: strict}}
      - {{name: all, window: total, limit_usd: "1000"}}
  hopeful:
    team: others
    secret: {HOPEFUL_KEY}
    budgets: [{{name: hopeful, window: month, limit_usd: "1000"}}]
"""
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


@contextmanager
def watching(product: Product, folder: Path) -> Iterator[Path]:
    """A witness asks the product from a process of its own. Its diary."""
    diary = folder / "diary"
    command = (sys.executable, "-m", "tests.e2e.witness", product.url, str(diary), *CALLERS.values())
    witness = Child(*command, log=folder / "witness.log", env=environment())
    try:
        yield diary
        witness.check_running()
    finally:
        witness.end(signal.SIGKILL)


def survive_kills(folder: Path, *, kills: int, answers: int) -> Findings:
    """Kill the product again and again under load, each time once `answers` more have arrived, and check the books."""
    with running_provider(folder) as provider, running_product(folder, provider, more=BUDGETS) as product:
        # Slow enough that at any moment some of them run.
        provider.script(times=1_000_000, chunk_delay_ms=15, delay_ms=50)
        chance = random.Random(7)
        with watching(product, folder) as diary:
            for number in range(kills):
                _wait_for_more(diary, answers)
                time.sleep(chance.uniform(0, 0.15))  # noqa: TID251  # A kill knows no good moment.
                product.kill()
                if number + 1 < kills:
                    product.restart()
        product.restart()
        product.usage()  # Settles what the dead have left, and waits until it has.
        findings = Findings(Diary(diary), provider.sent, _rows(product))
        findings.check()
        assert "Everything agrees" in product.manage("reconcile", "--attempts")
        return findings


def _wait_for_more(diary: Path, answers: int) -> None:
    enough = received_so_far(diary) + answers
    wait_for(lambda: received_so_far(diary) >= enough, "the next answers")


def _rows(product: Product) -> list[dict[str, Any]]:
    """The ledger as it stands in the database, with what scripts are not told."""
    with closing(sqlite3.connect(product.data / "gateway.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM billing_usagerecord ORDER BY started_at")]


class Findings:
    """What the witness received and the provider served, against the ledger."""

    def __init__(self, diary: Diary, sent: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        self._diary = diary
        self._rows = {row["id"]: row for row in rows}
        assert len(self._rows) == len(rows), "a request is in the ledger twice"
        self._served = {_number(record): record for record in sent}
        assert len(self._served) == len(sent), "a question came to the provider twice"
        self.statuses = Counter(row["status"] for row in rows)
        self.interrupted = Counter(row["key_name"] for row in rows if row["status"] == "interrupted")
        """By key."""
        self.received = len(diary.received)
        self.served = len(sent)
        self.lost = [number for number in self._served if number not in diary.received]
        """Served by the provider, and not received whole."""

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{len(self._diary.asked)} asked, {self.served} served, {self.received} received whole, {len(self.lost)} lost; "
            f"{len(self._rows)} rows: {statuses}; interrupted by key: {dict(sorted(self.interrupted.items()))}"
        )

    def check(self) -> None:
        assert not self._diary.refused, self._diary.refused[:3]
        assert self._diary.received.keys() <= self._served.keys()
        by_number = self._rows_by_number()
        for number, usage in self._diary.received.items():
            self._check_received(by_number[number], usage, self._served[number]["billed"])
        for number in self.lost:
            row = by_number[number]
            if row["status"] == "completed":
                self._check_billed(row, self._served[number]["billed"])
            else:
                self._check_estimate(row)
        # The rest died between the journal and the provider.
        for number in by_number.keys() - self._served.keys():
            self._check_estimate(by_number[number])
        for row in self._rows.values():
            self._check_hold(row)

    def _rows_by_number(self) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for row in self._rows.values():
            number = int(row["client_request_id"])
            assert number not in found, "a question is in the ledger twice"
            found[number] = row
        assert self._served.keys() <= found.keys(), "what the provider has served is not in the ledger"
        assert found.keys() <= self._diary.asked
        for number, request_id in self._diary.begun.items():
            assert found[number]["id"] == request_id
        return found

    def _check_received(self, row: dict[str, Any], usage: dict[str, Any], billed: dict[str, Any]) -> None:
        assert row["status"] == "completed", row
        assert usage["prompt_tokens"] == billed["prompt_tokens"]
        assert usage["completion_tokens"] == billed["completion_tokens"]
        self._check_billed(row, billed)

    @staticmethod
    def _check_billed(row: dict[str, Any], billed: dict[str, Any]) -> None:
        """To the unit what the provider counted."""
        assert row["usage_source"] == "provider", row
        assert (row["input"], row["output"]) == (billed["prompt_tokens"], billed["completion_tokens"]), (row, billed)
        cost = row["input"] * INPUT_PRICE + row["output"] * OUTPUT_PRICE
        assert (row["cost_pico_usd"], row["reserved_pico_usd"], row["needs_review"]) == (cost, 0, 0), row

    @staticmethod
    def _check_estimate(row: dict[str, Any]) -> None:
        assert row["status"] in {"interrupted", "cancelled"}, row
        assert row["usage_source"] == ("estimated" if row["attempts"] != "[]" else "none"), row

    @staticmethod
    def _check_hold(row: dict[str, Any]) -> None:
        """No request of any key is charged more than it held, which is what budgets count on."""
        charged, held = row["cost_pico_usd"] + row["reserved_pico_usd"], row["held_pico_usd"]
        assert charged <= held, row
        assert not row["over_hold"], row
        unknown = row["status"] == "interrupted" and row["attempts"] != "[]"
        if unknown and row["key_name"] in STRICT:
            assert (charged, row["needs_review"]) == (held, 1), "under a strict budget the whole hold stays charged"
        else:
            assert not row["reserved_pico_usd"], row


def _number(record: dict[str, Any]) -> int:
    return int(record["body"]["messages"][0]["content"].removeprefix(NUMBER))


def test_the_ledger_equals_what_clients_received(tmp_path: Path) -> None:
    findings = survive_kills(tmp_path, kills=2, answers=100)

    assert findings.received >= 200
    assert findings.statuses["interrupted"], "the kills came at moments when nothing was running"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_it_equals_it_after_any_number_of_kills(tmp_path: Path) -> None:
    """`GATEWAY_KILLS` says how many; a hundred take about ten minutes."""
    kills = int(os.environ.get("GATEWAY_KILLS", "100"))

    findings = survive_kills(tmp_path, kills=kills, answers=40)

    print(f"\n{kills} kills: {findings}")  # noqa: T201  # Read with `pytest -s`.
    assert findings.statuses["interrupted"] >= kills
    assert findings.interrupted.keys() == CALLERS.keys(), "some key's requests were never killed"


def test_a_restart_serves_at_once_from_the_same_rows(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers=headers).raise_for_status()
        product.kill()
        product.restart()

        httpx.post(f"{product.url}/v1/chat/completions", json=CHAT, headers=headers).raise_for_status()

        assert [row["status"] for row in product.usage()] == ["completed", "completed"]
        assert product.stop() == 0


def test_a_stop_signal_lets_running_streams_finish(tmp_path: Path) -> None:
    with running_provider(tmp_path) as provider, running_product(tmp_path, provider) as product:
        provider.script(chunk_delay_ms=40, tokens=20)
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.stream(
            "POST", f"{product.url}/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers, timeout=10
        ) as response:
            pieces = response.iter_raw()
            first = next(pieces)
            product.child.process.terminate()
            rest = b"".join(pieces)

        assert (first + rest).endswith(b"data: [DONE]\n\n")
        assert product.stop() == 0
        assert [row["status"] for row in product.usage()] == ["completed"]
