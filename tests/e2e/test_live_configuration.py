"""What another process saves holds in the running server within one second: by the ORM, in bulk, or by raw SQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import ROOT, Product, running_product, running_provider, wait_for

SECRET = "sk-gw-livekey000-0123456789abcdefghij"
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}
WITHIN_S = 1.0

CONFIGURATION = f"""
version: 1
networks: {{office: ["127.0.0.1"]}}
keys:
  live: {{team: platform, secret: {SECRET}, networks: [office]}}
"""


class Shell:
    """A second process with Django loaded, so that what is measured is not Django's start."""

    def __init__(self, product: Product) -> None:
        code = (
            "import django, sys; django.setup(); print('ready', flush=True)\n"
            "for line in sys.stdin:\n"
            "    exec(line); print('done', flush=True)\n"
        )
        self._process = subprocess.Popen(
            (sys.executable, "-c", code),
            cwd=ROOT, env={**product.environment, "DJANGO_SETTINGS_MODULE": "llmgateway.settings"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._expect("ready")

    def run(self, statement: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("live")
    with running_provider(folder) as provider, running_product(folder, provider) as product:
        yield product


@pytest.fixture(scope="module")
def second_process(product: Product) -> Iterator[Shell]:
    shell = Shell(product)
    yield shell
    shell.close()


@pytest.fixture(autouse=True)
def shell(product: Product, second_process: Shell, tmp_path: Path) -> Shell:
    """The second process, after it made the key `live` anew, whatever the test before did to it."""
    file = tmp_path / "live.yaml"
    file.write_text(CONFIGURATION)
    second_process.run("from llmgateway.models import ApiKey; ApiKey.objects.filter(name='live').delete()")
    second_process.run(
        f"from django.core.management import call_command; call_command('import_config', '{file}', stdout=sys.stderr)"
    )
    wait_for(lambda: call(product).status_code == 200, "the key's first answer")
    return second_process


def call(product: Product, model: str = "chat") -> httpx.Response:
    headers = {"authorization": f"Bearer {SECRET}"}
    return httpx.post(f"{product.url}/v1/chat/completions", json={**CHAT, "model": model}, headers=headers, timeout=10)


def holds(condition: Callable[[], bool]) -> None:
    """The change was saved just now."""
    saved = time.monotonic()
    wait_for(condition, "the change", within_s=WITHIN_S + 5)
    took = time.monotonic() - saved
    assert took < WITHIN_S, f"the change took {took:.2f} s"


def code_of(response: httpx.Response) -> str:
    code: str = response.json().get("error", {}).get("code", "")
    return code


def test_revoking_a_key(product: Product, shell: Shell) -> None:
    shell.run(
        "from llmgateway.models import ApiKey; from llmgateway.services import key_revoke; "
        "key_revoke(ApiKey.objects.get(name='live'))"
    )

    holds(lambda: call(product).status_code == 401)


def test_a_bulk_update(product: Product, shell: Shell) -> None:
    shell.run("from llmgateway.models import ApiKey; ApiKey.objects.filter(name='live').update(enabled=False)")

    holds(lambda: code_of(call(product)) == "key_disabled")


def test_raw_sql(product: Product) -> None:
    with sqlite3.connect(product.data / "gateway.sqlite3", timeout=10) as database:
        database.execute("UPDATE llmgateway_apikey SET expires_at = '2020-01-01 00:00:00' WHERE name = 'live'")
    database.close()

    holds(lambda: code_of(call(product)) == "key_expired")


def test_an_allowlist(product: Product, shell: Shell) -> None:
    shell.run(
        "from llmgateway.models import NetworkList; "
        "NetworkList.objects.filter(name='office').update(networks=['192.0.2.0/24'])"
    )

    holds(lambda: code_of(call(product)) == "ip_not_allowed")


def test_an_alias_that_goes_elsewhere(product: Product, shell: Shell) -> None:
    shell.run(
        "from providers.models import AliasTarget, Deployment; "
        "AliasTarget.objects.filter(alias__name='fake/chat')"
        ".update(deployment=Deployment.objects.get(name='fake-embedding-main'))"
    )

    holds(lambda: call(product, "fake/chat").headers.get("x-gateway-deployment") == "fake-embedding-main")


def test_a_new_price(product: Product, shell: Shell) -> None:
    before = call(product).headers["x-gateway-cost-usd"]

    shell.run(
        "from billing.models import Price; from django.utils import timezone; "
        "old = Price.objects.get(model='fake-chat'); old.pk = None; old.effective_from = timezone.now(); "
        "old.output *= 2; old.save(force_insert=True)"
    )

    holds(lambda: call(product).headers["x-gateway-cost-usd"] > before)


def test_a_default_price(product: Product, shell: Shell) -> None:
    """Given, it lets a key with a budget call a model without a price; taken away, the key may no more."""
    shell.run(
        "from billing.models import Budget, Price; from llmgateway.models import ApiKey; "
        "Price.objects.filter(model='fake-chat').delete(); "
        "Budget.objects.create(name='day', window='day', limit_pico_usd=10**12, key=ApiKey.objects.get(name='live'))"
    )
    holds(lambda: code_of(call(product)) == "model_not_priced")

    shell.run(
        "from llmgateway.services import settings_update; "
        "settings_update(default_input_price=1, default_output_price=1, default_request_price=10**9)"
    )

    holds(lambda: call(product).status_code == 200)
    answer = call(product)
    assert answer.headers["x-gateway-cost-usd"].startswith("0.001")
    row = wait_for(lambda: _row(product, answer.headers["x-request-id"]), "the row of the request")
    assert (row["price_id"], row["priced"], row["default_price"]) == (None, False, True)
    shell.run(
        "from llmgateway.services import settings_update; "
        "settings_update(default_input_price=None, default_output_price=None, default_request_price=None)"
    )
    holds(lambda: code_of(call(product)) == "model_not_priced")


def _row(product: Product, request_id: str) -> dict[str, Any]:
    return next((row for row in product.usage() if row["request_id"] == request_id), {})


def test_a_new_model_appears(product: Product, shell: Shell) -> None:
    shell.run(
        "from providers.models import *; "
        "alias = ModelAlias.objects.create(name='brand-new'); "
        "AliasTarget.objects.create(alias=alias, deployment=Deployment.objects.get(name='fake-chat-main'))"
    )

    holds(lambda: call(product, "brand-new").status_code == 200)
