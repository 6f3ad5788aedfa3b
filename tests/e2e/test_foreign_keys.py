"""A caller's own key through a running gateway: it reaches its provider, is kept nowhere, and is banned at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.harness import KEY, PROVIDER_SECRET, Product, Provider, running_product, wait_for

SWITCH = "GatewaySettings.objects.update(foreign_keys={})"
TEAM = "Team.objects.filter(name='platform').update(own_keys='{}')"
BAN = "BannedKey.objects.create(digest='{}')"
PARDON = "BannedKey.objects.all().delete()"
CAROLS = "sk-own-key-of-carol-0123456789"
"""The provider does not know it."""


@pytest.fixture(scope="module")
def place(running: tuple[Product, Provider], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with running_product(tmp_path_factory.mktemp("own"), running[1], LOG_LEVEL="DEBUG") as product:
        yield product
    written = [file for file in product.data.rglob("*") if file.is_file()]
    assert [file for file in written for key in (PROVIDER_SECRET, CAROLS) if key.encode() in file.read_bytes()] == []
    assert PROVIDER_SECRET not in product.child.output
    assert CAROLS not in product.child.output


def change(place: Product, *statements: str) -> None:
    place.manage("shell", "-c", "; ".join(("from llmgateway.models import *", *statements)))


@pytest.fixture(autouse=True)
def as_at_first(place: Product) -> None:
    change(place, SWITCH.format(False), TEAM.format("inherit"), PARDON)
    wait_for(lambda: (status(place, "/fake/v1", CAROLS), beside(place, CAROLS)) == (401, 403), "a fresh start")


def beside(place: Product, own: str, *, stream: bool = False) -> int:
    return status(place, "/v1", KEY, stream=stream, x_gateway_provider="fake", x_gateway_provider_key=own)


def status(place: Product, path: str, key: str, *, stream: bool = False, **headers: str) -> int:
    """What OpenAI's SDK is told."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    with openai.OpenAI(base_url=f"{place.url}{path}", api_key=key, max_retries=0, default_headers=said) as client:
        try:
            answer: Any = client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "Hi"}], stream=stream
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer) if stream else answer.id
        except openai.APIStatusError as error:
            return error.status_code
    assert text
    return 200


def test_in_place_of_a_gateway_key(place: Product, provider: Provider) -> None:
    def ask(key: str = PROVIDER_SECRET) -> int:
        return status(place, "/fake/v1", key)

    assert ask() == 401
    change(place, SWITCH.format(True))
    wait_for(lambda: ask() == 200, "the switch", within_s=5)
    provider.reset()
    assert ask() == 200
    assert len(provider.sent) == 1
    assert ask("sk-not-the-providers-own") == 401
    assert len(provider.sent) == 2, "the provider itself refuses its keys"

    row = next(row for row in place.usage() if row["status"] == "completed")
    change(place, BAN.format(row["own_key"]))
    wait_for(lambda: ask() == 403, "the ban", within_s=5)
    assert ask("sk-not-the-providers-own") == 401
    assert (row["cost_pico_usd"], row["team"], row["key"]) == (0, "", f"own key {row['own_key']}")


def test_beside_a_gateway_key(place: Product, provider: Provider) -> None:
    def ask(own: str = CAROLS, *, stream: bool = False) -> int:
        return beside(place, own, stream=stream)

    provider.reset()
    assert ask() == 403
    assert provider.sent == []
    change(place, TEAM.format("allow"))
    wait_for(lambda: ask() == 401, "the team's leave", within_s=5)
    assert {dict(call["headers"])["authorization"] for call in provider.sent} == {f"Bearer {CAROLS}"}
    assert [ask(PROVIDER_SECRET), ask(PROVIDER_SECRET, stream=True), status(place, "/v1", KEY)] == [200, 200, 200]
    assert status(place, "/fake/v1", PROVIDER_SECRET) == 401, "nobody without a gateway key may"

    def paid() -> list[dict[str, Any]]:
        return [row for row in place.usage() if row["team"] == "platform" and row["status"] == "completed"]

    rows = wait_for(lambda: len(found := paid()) >= 3 and found[-3:], "the rows")
    assert [(bool(row["own_key"]), row["cost_pico_usd"] > 0, row["key"]) for row in rows] == [
        (True, False, "app"), (True, False, "app"), (False, True, "app"),
    ]  # fmt: skip
    change(place, BAN.format(rows[0]["own_key"]))
    wait_for(lambda: ask(PROVIDER_SECRET) == 403, "the ban", within_s=5)
    assert ask() == 401
    change(place, PARDON, TEAM.format("refuse"), SWITCH.format(True))
    wait_for(lambda: status(place, "/fake/v1", PROVIDER_SECRET) == 200, "the switch", within_s=5)
    assert ask(PROVIDER_SECRET) == 403
