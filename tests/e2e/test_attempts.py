"""Fallbacks, second attempts and copies: from a file to a real server, over real connections, into its ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, running_product, running_provider, wait_for

MORE = """
version: 1
deployments:
  slow-main: {provider: fake, credential: main, model: "fake-chat+delay_ms:20000"}
  broken-main: {provider: fake, credential: main, model: "fake-chat+status:503"}
aliases:
  hedged:
    strategy: priority
    targets: [{deployment: slow-main}, {deployment: fake-chat-main}]
    hedge: {max_usd: "1", after_s: 0.2}
  chained:
    targets: [{deployment: broken-main}]
    retries: {attempts: 0}
    fallbacks: [claude]
  mirrored:
    targets: [{deployment: fake-chat-main}]
    mirror: {alias: claude, percent: 100}
prices:
  - {provider: fake, model: "fake-chat+delay_ms:20000", input: "0.15", output: "0.60", effective_from: 2026-01-01}
  - {provider: fake, model: "fake-chat+status:503", input: "0.15", output: "0.60", effective_from: 2026-01-01}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("attempts")
    with running_provider(folder) as provider, running_product(folder, provider) as made:
        more = Path(folder) / "more.yaml"
        more.write_text(MORE)
        made.manage("import_config", str(more))
        wait_for(lambda: ask(made, "mirrored").status_code == 200, "the new aliases")
        yield made


def ask(product: Product, model: str, timeout_s: float = 30, **body: Any) -> httpx.Response:
    asked = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **body}
    return httpx.post(
        f"{product.url}/v1/chat/completions",
        json=asked,
        headers={"authorization": f"Bearer {KEY}"},
        timeout=timeout_s,
    )


def test_another_alias_answers_and_the_row_says_so(product: Product) -> None:
    answer = ask(product, "chained")

    row = product.ledger_row(answer.headers["x-request-id"])
    assert (answer.status_code, answer.headers["x-gateway-fallback"]) == (200, "claude")
    assert [each["status"] for each in row["attempts"]] == [503, 200]
    assert (row["alias"], row["deployment"], row["attempts"][1]["alias"]) == ("chained", "claude-main", "claude")


@pytest.mark.parametrize("stream", [True, False])
def test_a_slow_target_is_outpaced_over_real_connections(product: Product, stream: bool) -> None:
    answer = ask(product, "hedged", stream=stream)

    row = product.ledger_row(answer.headers["x-request-id"])
    assert (answer.status_code, answer.headers["x-gateway-deployment"]) == (200, "fake-chat-main")
    assert answer.elapsed.total_seconds() < 10
    lost, won = row["attempts"]
    assert (lost["cause"], lost["estimated"], won["hedge"]) == ("outpaced", True, True)
    assert row["cost_pico_usd"] == lost["cost_pico_usd"] + won["cost_pico_usd"]
    assert lost["cost_pico_usd"] > 0


def test_a_copy_has_a_row_of_its_own(product: Product) -> None:
    answer = ask(product, "mirrored")

    number = answer.headers["x-request-id"]
    copies = wait_for(
        lambda: [row for row in product.usage() if row["mirror_of"] == number], "the row of the copy", within_s=10
    )
    [copy] = copies
    assert (copy["alias"], copy["key"], copy["team"]) == ("claude", "mirror", "")
    assert copy["cost_pico_usd"] > 0
