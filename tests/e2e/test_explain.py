"""What the running product explains is what it then does."""

from __future__ import annotations

from typing import Any

from llmgateway.http import httpx
from tests.e2e.harness import LIMITED_KEY, Product, Provider


def test_a_limit_is_explained_before_and_after_it_is_used_up(product: Product, provider: Provider) -> None:
    token = product.manage("create_token", "explainer", "--scopes", "explain:read").split()
    [secret] = [word for word in token if word.startswith("gw-mgmt-")]
    question = {"key": LIMITED_KEY, "model": "chat"}

    def explained() -> dict[str, Any]:
        headers = {"authorization": f"Bearer {secret}"}
        answer = httpx.post(f"{product.url}/manage/api/v1/explain", json=question, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ask() -> httpx.Response:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"authorization": f"Bearer {LIMITED_KEY}"}
        return httpx.post(f"{product.url}/v1/chat/completions", json=body, headers=headers, timeout=10)

    before = explained()
    while (real := ask()).status_code == 200:
        provider.reset()
    after = explained()

    assert provider.sent == []
    assert before["key"]["name"] == "limited"
    assert [target["deployment"] for target in before["targets"]] == ["fake-chat-main"]
    assert before["decision"]["status"] in (200, 429)
    assert (after["decision"]["status"], after["decision"]["code"]) == (429, real.json()["error"]["code"])
    [limit] = after["limits"]
    assert (limit["amount"], limit["remaining"]) == (3, 0)
    assert LIMITED_KEY not in product.child.output
