"""`usage`: the ledger's rows for scripts and people, complete up to the moment it was started."""

from __future__ import annotations

import re
import threading
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from billing.journal_files import to_json
from billing.ledger import drain_orphans
from billing.models import UsageRecord
from billing.money import format_usd
from billing.selectors import journal_ends, undrained, usage_as_json, usage_rows
from llmgateway import conf

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
POLL_S = 0.1


def moment(text: str) -> datetime:
    """`2026-11-21T08:00:00Z`, `2026-11-21`, seconds since the epoch, or how long ago: `90s`, `15m`, `2h`, `7d`."""
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return timezone.now() - timedelta(**{UNITS[found[2]]: int(found[1])})
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    try:
        parsed = parse_datetime(text) or parse_datetime(f"{text}T00:00:00")
    except ValueError:
        parsed = None
    if parsed is None:
        raise CommandError(f"--since {text!r} is no moment; write 2026-11-21T08:00:00Z, or how long ago, such as 2h")
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


class Command(BaseCommand):
    help = "Prints the ledger, oldest row first: with --json one object per row, otherwise a table."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="One JSON object per line.")
        parser.add_argument("--key", default="", metavar="NAME", help="Only rows of the key of this name.")
        parser.add_argument("--since", default="", metavar="T", help=moment.__doc__)
        parser.add_argument(
            "--wait", type=float, default=10, metavar="SECONDS", help="How long to wait for the journals (10)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        since = moment(options["since"]) if options["since"] else None
        _wait_for_journals(conf.conf.journal_dir, options["wait"])
        rows = usage_rows(key=options["key"], since=since).iterator(chunk_size=1000)
        if options["json"]:
            for row in rows:
                self.stdout.write(to_json(usage_as_json(row)).decode())
        else:
            self.stdout.write(_line("started", "key", "model", "status", "input", "output", "cost"))
            for row in rows:
                self.stdout.write(_table_line(row))


def _wait_for_journals(root: Path, seconds: float) -> None:
    """Until everything journalled before the call is in the database: by its worker, or by us where that is gone."""
    give_up = time.monotonic() + seconds
    ends = journal_ends(root)
    waiting = threading.Event()
    while True:
        drain_orphans(root)
        backlog = undrained(ends)
        if not backlog:
            return
        if time.monotonic() >= give_up:
            names = ", ".join(f"{folder.name} ({count} rows)" for folder, count in backlog.items())
            raise CommandError(
                f"These journals are not in the database after {seconds:g} s: {names}. "
                "Their workers run but do not drain; look into their logs, or wait longer with --wait."
            )
        waiting.wait(POLL_S)


def _table_line(row: UsageRecord) -> str:
    content = usage_as_json(row)
    started = f"{row.started_at:%Y-%m-%d %H:%M:%S}"
    mark = "~" if row.usage_source == UsageRecord.UsageSource.ESTIMATED else ""
    tokens = (f"{mark}{content['input_tokens']}", f"{mark}{content['output_tokens']}")
    return _line(started, row.key_name, row.model or row.alias, row.status, *tokens, format_usd(row.cost_pico_usd))


def _line(*cells: str) -> str:
    return "{:<19}  {:<20.20}  {:<28.28}  {:<11}  {:>9}  {:>9}  {:>14}".format(*cells)
