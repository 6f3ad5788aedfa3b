"""`replay_rejected`: stores what the database once refused, after its cause is mended."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.rejected import FILE, replay
from llmgateway import conf


class Command(BaseCommand):
    help = (
        f"Stores the usage records in the journals' {FILE} that the database refused before. Repeating it stores "
        "nothing twice. A line that is refused again stays: mend what it says, or remove it."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        root = conf.conf.journal_dir
        done = replay(root, tell=self.stderr.write)
        self.stdout.write(f"{done.rows} rows stored; {done.known} lines had been stored before.")
        if done.refused:
            raise CommandError(f"{len(done.refused)} lines are still refused; mend or remove them in {root / FILE}.")
