"""Rules, nested aliases and parameters from a file to a real server, and what they count for after it was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, running_product, running_provider, wait_for

ALIASES = """
version: 1
aliases:
  pool:
    targets: [{deployment: fake-chat-main}]
    limits: [{metric: requests, per: day, amount: 4}]
  front:
    strategy: round_robin
    sticky: session
    targets: [{alias: pool}]
    rules:
      - {name: summaries, when: 'request.task_type == "summarization"', use: claude}
      - {name: spent, when: "budget_used > 0.99", use: claude}
    parameters: {overrides: {max_tokens: 7}}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("routing")
    with running_provider(folder) as provider, running_product(folder, provider) as made:
        more = Path(folder) / "aliases.yaml"
        more.write_text(ALIASES)
        made.manage("import_config", str(more))
        wait_for(lambda: ask(made).status_code == 200, "the new aliases")
        yield made


def ask(product: Product, **headers: str) -> httpx.Response:
    body: dict[str, Any] = {"model": "front", "messages": [{"role": "user", "content": "Hi"}]}
    return httpx.post(
        f"{product.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {KEY}", **headers},
        timeout=30,
    )


def test_a_rule_leads_where_the_file_says(product: Product) -> None:
    answer = ask(product, **{"x-gateway-task-type": "summarization"})

    row = product.ledger_row(answer.headers["x-request-id"])
    assert (row["alias"], row["deployment"]) == ("front", "claude-main")
    assert answer.headers["x-gateway-model"] == "front"


def test_what_ran_through_an_alias_still_counts_after_kill_9(product: Product) -> None:
    # One has been asked until the aliases were there.
    first = [ask(product) for _ in range(2)]
    product.kill()
    product.restart()

    later = [ask(product) for _ in range(2)]

    assert [answer.status_code for answer in (*first, *later)] == [200, 200, 200, 429]
    refused = later[-1].json()["error"]["message"]
    assert refused.startswith("The model 'pool' allows 4 requests per day")
    assert first[0].json()["usage"]["completion_tokens"] <= 7
