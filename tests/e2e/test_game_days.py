"""Game days: the demo's provider fails by rules, and a gateway in production has neither provider nor rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import Provider, running_product
from tests.e2e.launched import LaunchedGateway, descendants
from tests.test_architecture import imports, modules

RULES = """
seed: 7
rules:
  - {name: no large model, when: model == "fake-large", do: {error: context_too_long}}
"""
FAKE = "providers.fake_server"
CONTROL = ("requests", "scripts", "faults", "reset")
ALL_FAIL = {"rules": [{"do": {"status": 500}}]}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "faults.yaml"
    file.write_text(RULES)
    return file


def test_serving_mounts_no_fake_provider_whatever_is_set(tmp_path: Path, provider: Provider, rules: Path) -> None:
    with running_product(tmp_path, provider, FAKE_PROVIDER_FAULTS=str(rules)) as product:
        with httpx.Client(base_url=product.url) as client:
            orders = _orders(client, product.url)
            below = [client.put(f"{path}/_control/faults", json=ALL_FAIL) for path in ("/v1", "/fake", "/v1beta")]
            chat = client.post("/v1/chat/completions", json={"model": "fake-chat", "messages": []})

        below_it = [Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(product.child.process.pid)]

    assert not any("fake_server" in command for command in below_it)
    assert {answer.status_code for answer in (*orders, *below)} <= {401, 403, 404, 405}
    assert chat.status_code == 401
    assert "no large model" not in product.child.output


def test_nothing_of_the_product_imports_the_fake_provider() -> None:
    theirs = {name: set(imports(module)) for name, module in modules().items() if not name.startswith(FAKE)}

    assert len(theirs) > 100
    assert not [name for name, found in theirs.items() if any(each.startswith(FAKE) for each in found)]


def test_a_demo_follows_the_rules_and_takes_others_while_it_runs(tmp_path: Path, rules: Path) -> None:
    data_dir = tmp_path / "data"
    with LaunchedGateway(data_dir, "demo", FAKE_PROVIDER_FAULTS=str(rules)) as running:
        secret = json.loads((data_dir / "demo.json").read_text())["secrets"]["DEMO_KEY"]
        broken, well = running.chat(secret, "demo-large"), running.chat(secret, "demo-reasoning")

        with httpx.Client(base_url=f"http://127.0.0.1:{_demo_port(data_dir)}") as provider:
            standing = provider.get("/_control/faults").json()
            provider.put("/_control/faults", json={"rules": []}).raise_for_status()
            mended = running.chat(secret, "demo-large")

    assert (broken[0], well[0], mended[0]) == (400, 200, 200), broken
    assert broken[1]["error"]["code"] == "context_length_exceeded"
    assert standing["rules"][0]["matched"] >= 1


def test_the_provider_of_an_ordinary_demo_takes_no_orders(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with LaunchedGateway(data_dir, "demo"), httpx.Client() as client:
        provider = f"http://127.0.0.1:{_demo_port(data_dir)}"
        models = client.get(f"{provider}/v1/models")
        orders = _orders(client, provider)

    assert models.status_code == 200
    assert {answer.status_code for answer in orders} == {404}


def _orders(client: httpx.Client, url: str) -> list[httpx.Response]:
    """What is said to everything that a fake provider could be told."""
    return [
        client.request(how, f"{url}/_control/{name}", json=ALL_FAIL)
        for how in ("GET", "PUT", "POST")
        for name in CONTROL
    ]


def _demo_port(data_dir: Path) -> int:
    port: int = json.loads((data_dir / "demo.json").read_text())["provider_port"]
    return port
