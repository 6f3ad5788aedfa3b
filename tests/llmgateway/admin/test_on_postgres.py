"""The admin's queries on PostgreSQL, in a process of its own, as a gateway with `DATABASE_URL` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).resolve().parents[3]

OPEN_EVERYTHING = """
import django
django.setup()
from django.contrib import admin
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from llmgateway import services
from tests.cast import create_cast
from tests.llmgateway.admin.world import create_world

call_command("collectstatic", interactive=False, verbosity=0)
world = create_world(create_cast())
services.key_rotate(world.key)
client = Client()
client.force_login(world.cast.alice, backend="django.contrib.auth.backends.ModelBackend")
paths = ["/admin/", "/admin/billing/usagerecord/?q=nobody", "/admin/billing/usagerecord/?status=failed",
         "/admin/billing/usagerecord/?team=platform&key=platform-key", "/admin/llmgateway/apikey/?q=platform&state=usable"]
for model in admin.site._registry:
    paths.append(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
for one in world.objects():
    for page in ("change", "history"):
        paths.append(reverse(f"admin:{one._meta.app_label}_{one._meta.model_name}_{page}", args=[one.pk]))
for path in paths:
    response = client.get(path, follow=True)
    print(response.status_code, path)
"""


def test_every_page_opens_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ, "DATABASE_URL": postgres_url, "GATEWAY_DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "llmgateway.settings", "ALLOWED_HOSTS": "testserver",
    }  # fmt: skip

    done = subprocess.run(
        [sys.executable, "-c", OPEN_EVERYTHING], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    answers = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert len(answers) > 40
    assert [path for status, path in answers if status != "200"] == []
