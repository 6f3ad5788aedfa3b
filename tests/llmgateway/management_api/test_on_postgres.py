"""What only PostgreSQL does: locks on rows, and two requests at the same moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.postgres
ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import json
import threading
import django
django.setup()
from django.db import connection
from django.test import Client
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create
from llmgateway.models import ApiKey, AuthSource
from tests.cast import create_cast
from tests.llmgateway.admin.world import create_world

world = create_world(create_cast())
_, secret = token_create(name="ci", scopes=list(SCOPES))


def send(method, path, body=None, **headers):
    headers["Authorization"] = f"Bearer {secret}"
    data = b"" if body is None else json.dumps(body).encode()
    return Client().generic(method, f"/manage/api/v1{path}", data, content_type="application/json", headers=headers)


answers, together = [], threading.Barrier(8)


def create_once():
    together.wait()
    answers.append(send("POST", "/keys", {"name": "once", "team": "platform"}, **{"Idempotency-Key": "abc"}))
    connection.close()


threads = [threading.Thread(target=create_once) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]

key, limit, budget = world.key.pk, world.key.limits.get().pk, world.budget.pk
others = [
    send("PATCH", f"/providers/{world.provider.pk}", {"enabled": True, "secrets": {"main": "sk-1", "more": "sk-2"}}),
    send("PATCH", f"/credentials/{world.credential.pk}", {"secret": "sk-3"}),
    send("PATCH", f"/networks/{world.office.pk}", {"networks": ["192.0.2.1"]}),
    send("PATCH", "/settings", {"retry_attempts": 3}),
    send("PATCH", f"/keys/{key}", {"user_id": "bo"}),
    send("POST", f"/keys/{key}/rotate", {"grace_s": 60}),
    send("POST", f"/keys/{key}/disable"),
    send("PATCH", f"/limits/{limit}", {"amount": 7}),
    send("PATCH", f"/budgets/{budget}", {"limit_usd": "7"}),
    send("POST", f"/budgets/{budget}/increase", {"increase_usd": "1", "increase_until": "2036-01-01T00:00:00Z"}),
    send("DELETE", f"/limits/{limit}"),
    send("PATCH", f"/memberships/{world.cast.bob.memberships.get().pk}", {"role": "member"}),
    send("PATCH", f"/sources/{AuthSource.objects.get().pk}", {"position": 3}),
    send("POST", "/catalogue", {"provider": "acme", "model": "small-2", "tools": True}),
    send("POST", "/prices", {"provider": "acme", "model": "small-1", "input": "1"}),
    send("GET", "/prices?state=in%20force"),
    send("GET", "/keys?state=active&search=x&ordering=-created_at"),
    send("GET", "/budgets"),
    send("GET", "/usage?key=platform-key"),
    send("GET", "/usage/summary?group_by=team,key,alias,provider,deployment,model,status,hour,day"),
]
print(json.dumps({
    "creations": sorted(answer.status_code for answer in answers),
    "secrets": sum(answer.json().get("secret") is not None for answer in answers),
    "keys": ApiKey.objects.filter(name="once").count(),
    "others": [answer.status_code for answer in others],
    "cost": others[-1].json()["results"][0]["cost_usd"],
}))
"""


def test_the_api_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ, "DATABASE_URL": postgres_url, "GATEWAY_DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "llmgateway.settings", "ALLOWED_HOSTS": "testserver",
    }  # fmt: skip
    (tmp_path / "static").mkdir()

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["creations"] == [200] * 7 + [201]
    assert (told["secrets"], told["keys"]) == (1, 1)
    assert told["others"] == [200] * 10 + [204, 200, 200, 201, 201] + [200] * 5
    assert told["cost"] == "0.00027"
