"""The server of `./gateway demo`: as `serve`, after giving the demo its configuration and its past."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from django.core.management.base import CommandError

from billing.models import UsageRecord
from llmgateway import conf as conf_module
from llmgateway.config_file.problems import ConfigFileError
from llmgateway.config_loader import load_snapshot
from llmgateway.demo.configuration import configure, lets_in
from llmgateway.demo.history import DAYS, write_history
from llmgateway.management.commands import serve
from llmgateway.management.preparation import FIRST_ADMIN, migrate_if_needed

LOG_NAME = "access.log"


class Command(serve.Command):
    help = "Serve the demo. `./gateway demo` runs this beside the fake provider and some traffic."

    def prepare(self, config_file: str | None) -> None:
        migrate_if_needed()
        try:
            # Before the first admin is made: with providers there, keys in the environment seed no real ones.
            configure(os.environ["DEMO_PROVIDER_URL"], os.environ["DEMO_FORMER_PROVIDER_URLS"].split())
        except ConfigFileError as error:
            raise CommandError("\n".join(error.lines)) from error
        if not UsageRecord.objects.exists():
            count = write_history(conf_module.conf, load_snapshot(revision=0), now=time.time())
            print(f"Made up {count} requests of the last {DAYS} days, all by keys and teams named demo….")
        super().prepare(config_file)
        # Asked here, for what is printed later is printed from the event loop.
        self._key_is_its_own = lets_in(os.environ["DEMO_KEY"])

    def print_ready(self) -> None:
        super().print_ready()
        conf = conf_module.conf
        root = serve.base_url(conf.host, conf.port)
        print(f"  {'login':<10} {FIRST_ADMIN} / {os.environ['DJANGO_SUPERUSER_PASSWORD']}")
        print("\nTry it:\n")
        print(f"  curl {root}/v1/chat/completions \\")
        print(f"    -H 'Authorization: Bearer {os.environ['DEMO_KEY']}' -H 'Content-Type: application/json' \\")
        print("""    -d '{"model": "demo-chat", "messages": [{"role": "user", "content": "Hello!"}]}'\n""")
        if not self._key_is_its_own:
            print(
                "This key was changed in the admin: write its new secret there. ./gateway demo --reset begins anew.\n"
            )
        self._log_to_file(conf.data_dir / LOG_NAME)

    def _log_to_file(self, file: Path) -> None:
        """The traffic's access lines go on there: on the screen they would carry away what was just printed."""
        print(f"One line per request goes to {file}. Press Ctrl-C to stop.", flush=True)
        with file.open("a") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
