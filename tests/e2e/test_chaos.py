"""Four targets that fail, stall, limit and reset at random, of which one at least is well at any moment.

Nobody sees an error that the one who is well could have spared, nothing is charged twice or for nothing, and in the end
nothing is held any more.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from llmgateway.http import httpx
from tests.e2e.harness import INPUT_PRICE, OUTPUT_PRICE, Product, Provider, running_product, running_provider, wait_for

SECRET = "sk-gw-chaoschaos-0123456789abcdefghij"
TARGETS = ("chaos-a", "chaos-b", "chaos-c", "chaos-d")
START_S = 3
"""Within which all callers have begun."""
PAUSE_S = 0.004
"""Of each caller between its questions, for every caller that there is: so many that all get their answers in time."""


def configuration(patience_s: float) -> str:
    """`patience_s` is more than a target that is well takes for its first words, however busy the machine is."""
    timeouts = f"{{connect_s: 2, first_token_s: {patience_s}, idle_s: {patience_s}, total_s: 60}}"
    deployments = [
        f"  {name}: {{provider: fake, credential: main, model: {name}, timeouts: {timeouts}}}" for name in TARGETS
    ]
    targets = [f"{{deployment: {name}}}" for name in TARGETS]
    prices = [
        f'  - {{provider: fake, model: {name}, input: "0.15", output: "0.60", effective_from: 2026-01-01}}'
        for name in TARGETS
    ]
    return "\n".join(
        [
            "version: 1",
            "deployments:",
            *deployments,
            "aliases:",
            f"  chaos: {{strategy: round_robin, targets: [{', '.join(targets)}]}}",
            "prices:",
            *prices,
            "keys:",
            "  chaos:",
            "    team: platform",
            f"    secret: {SECRET}",
            "    limits: [{metric: concurrency, amount: 1000}, {metric: requests, per: day, amount: 1000000}]",
            '    budgets: [{name: chaos, window: day, limit_usd: "1000", mode: strict}]',
            "settings:",
            "  retries: {attempts: 2, initial_ms: 50, max_ms: 1000}",
            "  circuits: {mode: enforce, failures: 5, window_s: 5, open_s: 1, wait_s: 3}",
        ]
    )


def faults(turn_s: int, overlap_s: int) -> list[dict[str, Any]]:
    """Each target is well in its turn of `turn_s`, and for `overlap_s` before; at other times most that it is asked goes
    wrong. The overlap is longer than a circuit stays open then, which is twice as long each time that a trial fails.
    """
    around = turn_s * len(TARGETS)
    rules: list[dict[str, Any]] = []
    for number, model in enumerate(TARGETS):
        since = f"(int(seconds) + {around - number * turn_s + overlap_s}) % {around}"
        ill = f'model == "{model}" && {since} >= {turn_s + overlap_s}'
        rules += [
            {"when": f"{ill} && chance < 0.25", "do": {"status": 503}},
            {"when": f"{ill} && chance < 0.35", "do": {"status": 429, "retry_after": "1"}},
            {"when": f"{ill} && chance < 0.55", "do": {"reset": True}},
            {"when": f"{ill} && chance < 0.65", "do": {"status": 500, "delay_ms": 200}},
            {"when": f"{ill} && stream && chance < 0.75", "do": {"stall_after": 0}},
            {"when": f"{ill} && stream && chance < 0.80", "do": {"reset_after": 4, "tokens": 12}},
            {"when": f"{ill} && stream && chance < 0.85", "do": {"stall_after": 4, "tokens": 12}},
        ]
    return [*rules, {"when": "true", "do": {"tokens": 12, "delay_ms": 20, "jitter_ms": 40}}]


class Clients:
    """Ask again and again, every other time for a stream, and note what they got by the number of the question."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._numbers = itertools.count(1)
        self.ids: dict[int, str] = {}
        """Of requests, as the gateway calls them."""
        self.complete: set[int] = set()
        self.broken: dict[int, str] = {}
        """Streams that ended with an error after their first words, and that error."""
        self.slowest_s = 0.0

    async def run(self, how_many: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=how_many, max_keepalive_connections=how_many)
        async with httpx.AsyncClient(base_url=self._product.url, timeout=60, limits=limits) as http:
            await asyncio.gather(*[self._one(http, until, pause_s=PAUSE_S * how_many) for _ in range(how_many)])

    async def _one(self, http: httpx.AsyncClient, until: float, *, pause_s: float) -> None:
        await asyncio.sleep(random.uniform(0, START_S))
        while time.monotonic() < until:
            number = next(self._numbers)
            began = time.monotonic()
            await self._ask(http, number, stream=bool(number % 2))
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(pause_s)

    async def _ask(self, http: httpx.AsyncClient, number: int, *, stream: bool) -> None:
        body: dict[str, Any] = {"model": "chaos", "messages": [{"role": "user", "content": f"question {number}"}]}
        if stream:
            body["stream"] = True
        async with http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {SECRET}"}
        ) as answer:
            content = await answer.aread()
        told = f"question {number}: {answer.status_code} {content[-300:]!r} {dict(answer.headers)}"
        assert answer.status_code == 200, told
        assert number not in self.ids, "a question was asked twice"
        self.ids[number] = answer.headers["x-request-id"]
        if not stream:
            assert json.loads(content)["usage"]["completion_tokens"] == 12, told
            self.complete.add(number)
        elif content.endswith(b"data: [DONE]\n\n") and b'"error"' not in content:
            self.complete.add(number)
        else:
            assert b'"delta":{"content"' in content, told
            self.broken[number] = content[-300:].decode(errors="replace")


def by_question(provider: Provider) -> dict[int, list[dict[str, Any]]]:
    """What the provider was sent for each question."""
    found: dict[int, list[dict[str, Any]]] = {}
    for record in provider.sent:
        if record["path"].endswith("/chat/completions"):
            number = int(record["body"]["messages"][0]["content"].removeprefix("question "))
            found.setdefault(number, []).append(record)
    return found


def price_of(record: dict[str, Any]) -> int:
    billed = record["billed"]
    if billed is None:
        return 0
    assert not billed["prompt_tokens_details"]["cached_tokens"]
    return int(billed["prompt_tokens"]) * INPUT_PRICE + int(billed["completion_tokens"]) * OUTPUT_PRICE


def check_the_bill(product: Product, provider: Provider, clients: Clients) -> None:
    """One row for each question, and in it what the provider bills for all its attempts."""
    rows = {row["request_id"]: row for row in product.usage()}
    assert set(clients.ids.values()) == set(rows), "rows and requests are not the same"
    sent = by_question(provider)
    for number, request_id in clients.ids.items():
        row, records = rows[request_id], sent[number]
        # An attempt that found no connection in time never came there; what came there is an attempt, each time.
        answered = [attempt for attempt in row["attempts"] if attempt["status"]]
        assert len(records) <= len(row["attempts"]), (row, records)
        assert len(answered) <= len(records), (row, records)
        assert row["cost_pico_usd"] == sum(attempt["cost_pico_usd"] for attempt in row["attempts"]), row
        billed = sum(map(price_of, records))
        if number in clients.complete:
            assert row["status"] == "completed", row
            assert row["cost_pico_usd"] == billed, (row, records)
        else:
            assert row["status"] == "failed", row
            assert row["cost_pico_usd"] > 0, row


def check_nothing_is_held(product: Product) -> None:
    """Slots, holds, turns and what runs at targets are all back."""
    made = product.manage("create_token", "chaos", "--scopes", "explain:read").split()
    [token] = [word for word in made if word.startswith("gw-mgmt-")]

    def explained() -> dict[str, Any]:
        answer = httpx.post(
            f"{product.url}/manage/api/v1/explain",
            json={"key": SECRET, "model": "chaos"},
            headers={"authorization": f"Bearer {token}"},
            timeout=10,
        )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    wait_for(lambda: explained()["targets"], "an explanation")
    found = explained()
    [slots] = [limit for limit in found["limits"] if limit["metric"] == "concurrency"]
    assert slots["used"] == 0
    assert [budget["held_usd"] for budget in found["budgets"]] == ["0"]
    assert {target["deployment"]: target["in_flight"] for target in found["targets"]} == dict.fromkeys(TARGETS, 0)
    assert (found["load"]["in_flight"], found["load"]["queued"]) == (0, 0)
    page = httpx.get(f"{product.url}/metrics", timeout=10).text
    assert "\nllmgateway_requests_in_flight 0.0\n" in page


async def survive(
    folder: Path, *, callers: int, seconds: float, turn_s: int, overlap_s: int, patience_s: float
) -> None:
    with running_provider(folder) as provider, running_product(folder, provider) as product:
        more = folder / "chaos.yaml"
        more.write_text(configuration(patience_s))
        product.manage("import_config", str(more))
        clients = Clients(product)
        headers = {"authorization": f"Bearer {SECRET}"}

        def is_known() -> bool:
            names = httpx.get(f"{product.url}/v1/models", headers=headers, timeout=5).text
            return '"chaos"' in names

        wait_for(is_known, "the configuration of the chaos")
        plan = {"seed": 7, "rules": faults(turn_s, overlap_s)}
        httpx.put(f"http://127.0.0.1:{provider.port}/_control/faults", json=plan, timeout=5).raise_for_status()

        await clients.run(callers, seconds)

        assert len(clients.complete) > callers, "hardly anything was asked"
        ways = [len(records) for records in by_question(provider).values()]
        assert max(ways) > 1, "nobody had to be asked twice"
        assert len(clients.broken) < len(clients.complete) / 10, clients.broken
        await asyncio.to_thread(check_the_bill, product, provider, clients)
        await asyncio.to_thread(check_nothing_is_held, product)
        print(  # noqa: T201  # With `-s` or `-rA`: figures for people.
            f"{len(ways)} questions, {len(clients.complete)} answered in full, {len(clients.broken)} streams broke off "
            f"after their first words; {sum(ways)} upstream calls, {max(ways)} for one question at most; "
            f"{clients.slowest_s:.1f} s for the slowest answer"
        )


async def test_nobody_sees_what_a_healthy_target_could_have_spared(tmp_path: Path) -> None:
    await survive(tmp_path, callers=50, seconds=15, turn_s=5, overlap_s=8, patience_s=1.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_minutes_of_it_under_two_hundred_callers(tmp_path: Path) -> None:
    await survive(tmp_path, callers=200, seconds=120, turn_s=15, overlap_s=18, patience_s=4)
