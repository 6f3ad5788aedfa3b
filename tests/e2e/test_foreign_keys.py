"""A caller's own key through a running gateway: it reaches the provider, is kept nowhere, and is banned at once."""

from __future__ import annotations

from pathlib import Path

import openai

from tests.e2e.harness import PROVIDER_SECRET, Provider, running_product, wait_for

SWITCH = "from llmgateway.models import *; GatewaySettings.objects.update(foreign_keys={})"
BAN = "from llmgateway.models import *; BannedKey.objects.create(digest='{}')"


def test_from_the_switch_to_the_ban(provider: Provider, tmp_path: Path) -> None:
    with running_product(tmp_path, provider) as product:

        def ask(key: str = PROVIDER_SECRET) -> int:
            with openai.OpenAI(base_url=f"{product.url}/fake/v1", api_key=key, max_retries=0) as client:
                try:
                    client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}])
                except openai.APIStatusError as error:
                    return error.status_code
            return 200

        assert ask() == 401
        product.manage("shell", "-c", SWITCH.format(True))
        wait_for(lambda: ask() == 200, "the switch", within_s=5)
        provider.reset()
        assert ask() == 200
        assert len(provider.sent) == 1
        assert ask("sk-not-the-providers-own") == 401
        assert len(provider.sent) == 2, "the provider itself refuses its keys"

        row = next(row for row in product.usage() if row["status"] == "completed")
        product.manage("shell", "-c", BAN.format(row["key"].removeprefix("own key ")))
        wait_for(lambda: ask() == 403, "the ban", within_s=5)
        assert ask("sk-not-the-providers-own") == 401

    assert (row["cost_pico_usd"], row["team"]) == (0, "")
    written = [file for file in product.data.rglob("*") if file.is_file()]
    assert [file for file in written if PROVIDER_SECRET.encode() in file.read_bytes()] == []
    assert PROVIDER_SECRET not in product.child.output
