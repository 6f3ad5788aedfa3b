"""Providers' own APIs under their names: understood calls are ordinary ones, everything else passes through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing.money import PICO_PER_USD
from llmgateway.api.native import forwarded_query
from llmgateway.pipeline.snapshot import Alias, BudgetRule, Limit, Retries, Target
from providers.adapters.registry import get_adapter
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, SECRET, House, alias, deployment, key, snapshot

MAIN = deployment(provider="acme")
OTHER = deployment("other", 2, provider="rival", model="rival-large")
FILES: dict[str, Any] = {"object": "list", "data": [{"id": "file-1"}]}
DAY = BudgetRule(1, "day", "key", "1", "day", PICO_PER_USD, "UTC")


def house(*replies: Reply, who: Any = None, deployments: Any = (MAIN, OTHER), aliases: Any = None) -> House:
    named = aliases or (alias("gpt", MAIN, OTHER), alias("rival", OTHER))
    return House(ScriptedUpstream(*replies), snapshot(*named, who=who, deployments=deployments))


async def test_an_understood_call_keeps_its_path_and_query_and_is_metered() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post(f"/acme/v1/chat/completions?beta=true&key={SECRET}", {"model": "gpt", "messages": []})

    assert response.status_code == 200
    assert str(place.upstream.requests[0].url) == "http://main.test/v1/chat/completions?beta=true"
    assert place.upstream.bodies == [{"model": "gpt-upstream", "messages": []}]
    assert (place.row["input"], place.row["output"], place.row["alias"]) == (11, 5, "gpt")


async def test_a_model_may_be_called_by_the_provider_s_name_for_it() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/rival/v1/chat/completions", {"model": "rival-large", "messages": []})

    assert response.status_code == 200
    assert place.row["deployment"] == "other"
    assert place.row["alias"] == "rival/rival-large"
    assert place.row["cost_pico_usd"] == 11 * 2 + 5 * 10


async def test_a_provider_s_name_for_a_model_means_nothing_elsewhere() -> None:
    place = house()

    bare = await place.post("/v1/chat/completions", {"model": "rival-large", "messages": []})
    elsewhere = await place.post("/acme/v1/chat/completions", {"model": "rival-large", "messages": []})

    assert [bare.status_code, elsewhere.status_code] == [404, 404]
    assert bare.json()["error"]["code"] == "model_not_found"


async def test_a_key_with_a_list_of_models_reaches_only_where_they_lead() -> None:
    place = house(Reply.json(CHAT), who=key(models=frozenset({"rival"})))

    allowed = await place.post("/rival/v1/chat/completions", {"model": "rival-large", "messages": []})
    refused = await place.post("/acme/v1/chat/completions", {"model": "gpt-upstream", "messages": []})
    files = await place.get("/acme/v1/files")

    assert [allowed.status_code, refused.status_code, files.status_code] == [200, 404, 404]
    assert place.row["alias"] == "rival"


@pytest.mark.parametrize("inner_retires", [None, 1.0])
async def test_what_lies_behind_an_alias_that_a_key_may_not_call_does_not_exist_for_it(
    inner_retires: float | None,
) -> None:
    inner = replace(alias("inner", OTHER), retires_at=inner_retires)
    outer = Alias(9, "outer", 0, "priority", (Target(MAIN), Target(None, alias=inner)))
    listed = {"outer", "inner"} if inner_retires else {"outer"}
    place = house(Reply.json(CHAT), aliases=(inner, outer), who=key(models=frozenset(listed)))

    hidden = await place.post("/rival/v1/chat/completions", {"model": "rival-large", "messages": []})
    reached = await place.post("/acme/v1/chat/completions", {"model": "gpt-upstream", "messages": []})

    assert (hidden.status_code, reached.status_code) == (404, 200)


async def test_an_alias_that_leads_nowhere_for_a_key_hides_no_other_that_does() -> None:
    inner = alias("inner", OTHER)
    outer = Alias(9, "a-first", 0, "priority", (Target(None, alias=inner),))
    place = house(
        Reply.json(CHAT),
        aliases=(inner, outer, alias("z-last", OTHER)),
        who=key(models=frozenset({"a-first", "z-last"})),
    )

    response = await place.post("/rival/v1/chat/completions", {"model": "rival-large", "messages": []})

    assert (response.status_code, place.row["alias"]) == (200, "z-last")


async def test_whatever_else_there_is_passes_through_as_it_is() -> None:
    place = house(Reply(201, {"content-type": "text/plain", "x-odd": "kept"}, (b"done",)))
    body = b"--b\r\ncontent-disposition: form-data; name=purpose\r\n\r\nbatch\r\n--b--\r\n"

    response = await place.post(
        "/acme/v1/odd/path%20x?a=1&b=%2F", body, content_type="multipart/form-data; boundary=b", x_strange="yes"
    )

    sent = place.upstream.requests[0]
    assert (response.status_code, response.content, response.headers["x-odd"]) == (201, b"done", "kept")
    assert (sent.method, sent.content) == ("POST", body)
    assert sent.url.raw_path == b"/v1/odd/path%20x?a=1&b=%2F"
    assert sent.headers["content-type"] == "multipart/form-data; boundary=b"
    assert sent.headers["x-strange"] == "yes"
    assert sent.headers["authorization"] == "Bearer provider-secret"
    assert (place.row["operation"], place.row["usage_source"], place.row["cost_pico_usd"]) == ("passthrough", "none", 0)


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
async def test_any_method_passes_through(method: str) -> None:
    place = house(Reply.json(FILES))

    response = await place.request(method, "/acme/v1/files/file-1", b"", {"x-api-key": SECRET})

    sent = place.upstream.requests[0]
    assert (response.status_code, response.json()) == (200, FILES)
    assert (sent.method, sent.url.path) == (method, "/v1/files/file-1")
    assert "x-api-key" not in sent.headers


async def test_a_body_that_names_its_model_goes_to_that_model_and_is_metered_if_the_answer_says_usage() -> None:
    place = house(Reply.json({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}))

    await place.post("/rival/v1/novelty", {"model": "rival", "input": "x"})

    assert place.upstream.bodies == [{"model": "rival-large", "input": "x"}]
    assert (place.row["usage_source"], place.row["cost_pico_usd"]) == ("provider", 3 * 2 + 4 * 10)


async def test_the_adapter_s_name_leads_there_where_no_row_is_called_so() -> None:
    place = house(Reply.json(CHAT))

    response = await place.post("/openai_compatible/v1/chat/completions", {"model": "gpt", "messages": []})

    assert response.status_code == 200


async def test_nobody_gets_through_without_a_key() -> None:
    place = house()

    response = await place.request("GET", "/acme/v1/files", b"", {})

    assert response.status_code == 401
    assert not place.upstream.requests


async def test_limits_count_calls_that_nobody_understands() -> None:
    limit = Limit("limit:1", "1 request per minute", "key", 1, 1)
    place = house(Reply.json(FILES), who=key(limits=(limit,)))

    answers = [await place.get("/acme/v1/files") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]


async def test_a_budget_pays_for_no_call_of_unknown_cost_unless_an_admin_says_how_much_it_can_be() -> None:
    bounded = deployment("bounded", 3, provider="bounded", max_request_pico_usd=PICO_PER_USD // 2)
    place = house(
        Reply.json({}), Reply.json(FILES), who=key(budgets=(DAY,)), deployments=(MAIN, bounded),
        aliases=(alias("gpt", MAIN), alias("bounded", bounded)),
    )  # fmt: skip

    refused = await place.post("/acme/v1/videos", {"prompt": "x"})
    paid = await place.post("/bounded/v1/videos", {"prompt": "x"})
    read = await place.get("/acme/v1/files")

    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "cost_not_boundable")
    assert [paid.status_code, read.status_code] == [200, 200]


async def test_a_header_says_whose_limits_hold_for_a_call_without_a_model() -> None:
    place = house(Reply.json(FILES))

    await place.get("/rival/v1/files", x_gateway_model="rival")

    assert place.row["alias"] == "rival"
    assert "x-gateway-model" not in place.upstream.requests[0].headers


async def test_a_body_s_model_comes_before_the_header_s() -> None:
    place = house(Reply.json({}))

    await place.post("/rival/v1/novelty", {"model": "rival", "input": "x"}, x_gateway_model="rival-large")

    assert place.row["alias"] == "rival"
    assert place.upstream.bodies == [{"model": "rival-large", "input": "x"}]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/novelty%3Fx=/chat/completions",
        "/v1/novelty%23/chat/completions",
        "/v1/x%0d%0ax-injected:%201%0d%0a/chat/completions",
        "/v1/%00/chat/completions",
        "/v1/deployments/other-model/chat/completions",
        "/v1//chat//completions/",
        "/V1/Chat/Completions",
    ],
)
async def test_what_ends_like_an_understood_call_is_that_call_and_no_other(path: str) -> None:
    place = house(Reply.json(CHAT))

    response = await place.post(f"/acme{path}", {"model": "gpt", "messages": []})

    assert response.status_code == 200
    assert str(place.upstream.requests[0].url) == "http://main.test/v1/chat/completions"
    assert (place.row["operation"], place.row["input"]) == ("chat", 11)


@pytest.mark.parametrize("path", ["/v1/../x", "/v1/%2e%2e/x", "/..%2fx", "/v1/./x", "/v1/..;a=b/x", "/v1/..%5cx"])
async def test_no_path_leaves_the_provider_s_address(path: str) -> None:
    place = house()

    response = await place.get(f"/acme{path}")

    assert response.status_code == 404
    assert not place.upstream.requests


async def test_a_key_with_a_list_of_models_makes_no_call_that_could_use_any_other() -> None:
    place = house(Reply.json(FILES), who=key(models=frozenset({"gpt"})))

    refused = await place.post("/acme/v1/novelty", {"model": "gpt"}, x_gateway_model="gpt")
    read = await place.get("/acme/v1/files")

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert read.status_code == 200
    assert len(place.upstream.requests) == 1


async def test_no_header_makes_another_call_of_one_that_was_admitted() -> None:
    place = house(Reply.json(FILES))

    await place.get("/acme/v1/files", x_http_method_override="POST", x_goog_fieldmask="data")

    sent = place.upstream.requests[0].headers
    assert "x-http-method-override" not in sent
    assert "x-goog-fieldmask" not in sent


async def test_a_call_whose_path_names_the_model_goes_to_its_own_address() -> None:
    base = "https://l.test/v1/projects/p/locations/l"
    google = deployment(provider="google", adapter=get_adapter("vertex"), base_url=base, model="gemini-x", headers=())
    place = house(
        Reply.json({"usageMetadata": {"promptTokenCount": 7}}), deployments=(google,), aliases=(alias("g", google),)
    )
    path = "/google/v1/projects/p/locations/l/publishers/google/models/g:generateContent?$fields=candidates"

    response = await place.post(path, {"contents": []})

    assert response.status_code == 200
    assert str(place.upstream.requests[0].url) == f"{base}/publishers/google/models/gemini-x:generateContent"
    assert (place.row["operation"], place.row["input"]) == ("chat", 7)


async def test_a_count_of_tokens_is_no_message() -> None:
    claude = deployment(provider="claude", adapter=get_adapter("anthropic"), base_url="http://claude.test/v1")
    place = house(
        Reply.json({"input_tokens": 9}),
        deployments=(claude,),
        aliases=(alias("gpt", claude),),
        who=key(models=frozenset({"gpt"})),
    )

    response = await place.post("/claude/v1/messages/count_tokens", {"model": "gpt", "messages": []})

    assert response.json() == {"input_tokens": 9}
    assert str(place.upstream.requests[0].url) == "http://claude.test/v1/messages/count_tokens"
    assert (place.row["operation"], place.row["cost_pico_usd"]) == ("passthrough", 0)


async def test_a_path_that_is_no_provider_s_is_a_404() -> None:
    response = await house().get("/nobody/v1/files")

    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_endpoint")


@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        (b"", ""),
        (b"beta=true", "?beta=true"),
        (b"key=sk-gw-1", ""),
        (b"alt=sse&key=sk-gw-1", "?alt=sse"),
        (b"monkey=1&a=%2F", "?monkey=1&a=%2F"),
    ],
)
def test_the_caller_s_key_leaves_the_query(query: bytes, forwarded: str) -> None:
    assert forwarded_query(query) == forwarded


@pytest.mark.parametrize("path", ["/v1/realtime/client_secrets", "/v1/Realtime/calls", "/realtimeapi/sessions"])
async def test_what_leads_past_the_gateway_is_not_handed_out(path: str) -> None:
    place = house(Reply.json({"value": "ek_secret"}))

    response = await place.post(f"/acme{path}", {"session": {"type": "realtime", "model": "gpt"}})

    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_endpoint")
    assert place.upstream.requests == []


async def test_usage_in_another_s_words_is_read_and_unknown_words_are_no_usage() -> None:
    place = house(
        Reply.json({"usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 5}}),
        Reply.json({"usage": {"elephants": 7}}),
    )

    await place.post("/rival/v1/novelty", {"model": "rival"})
    await place.post("/rival/v1/novelty", {"model": "rival"})

    known, unknown = place.ledger.closed
    assert (known["usage_source"], known["input"], known["cache_read"], known["output"]) == ("provider", 3, 5, 4)
    assert (unknown["usage_source"], unknown["cost_pico_usd"]) == ("none", 0)


async def test_claude_on_vertex_is_understood_by_its_own_path() -> None:
    claude = deployment(adapter=get_adapter("vertex_anthropic"), provider="acme", model="claude-x")
    place = house(
        Reply.json({"type": "message", "content": [], "usage": {"input_tokens": 1000, "output_tokens": 2000}}),
        deployments=(claude,), aliases=(alias("gpt", claude),),
    )  # fmt: skip

    answer = await place.post(
        "/acme/v1/publishers/anthropic/models/claude-x:rawPredict", {"max_tokens": 9, "messages": []}
    )

    assert answer.status_code == 200
    assert place.upstream.bodies == [{"max_tokens": 9, "messages": [], "anthropic_version": "vertex-2023-10-16"}]
    assert place.row["cost_pico_usd"] == 1000 * 2 + 2000 * 10


@pytest.mark.parametrize(
    "name",
    [
        "openai-organization",
        "openai-project",
        "x-goog-user-project",
        "x-vertex-ai-llm-request-type",
        "x-vertex-ai-llm-shared-request-type",
        "x-amzn-bedrock-service-tier",
        "x-amzn-bedrock-performanceconfig-latency",
        "x-amz-security-token",
        "x-amz-date",
        "ocp-apim-subscription-key",
    ],
)
async def test_who_pays_and_how_much_is_not_the_caller_s_to_say(name: str) -> None:
    place = house(Reply.json(CHAT))
    headers = {"authorization": f"Bearer {SECRET}", name: "priority", "anthropic-beta": "kept"}

    await place.request("POST", "/v1/chat/completions", b'{"model": "gpt", "messages": []}', headers)

    sent = place.upstream.requests[0].headers
    assert name not in sent
    assert sent["anthropic-beta"] == "kept"


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_what_a_provider_says_to_a_call_that_nobody_understands_opens_no_circuit(status: int) -> None:
    refusals = [Reply.json({"error": {"message": "no"}}, status, retry_after="60")] * 8
    place = house(*refusals, Reply.json(CHAT))
    place.gateway.use(replace(place.gateway.snapshot, retries=Retries(attempts=0)), place.gateway.budget_index)

    for _ in refusals:
        await place.get("/acme/v1/organization/users")
    response = await place.post("/acme/v1/chat/completions", {"model": "gpt", "messages": []})

    assert (response.status_code, place.gateway.health.state("acme")) == (200, "healthy")


@pytest.mark.parametrize(
    "told",
    ["fields=candidates", "$fields=id", "%24fields=id", "alt=proto", "$alt=proto", "access_token=x", "api-key=x", "userProject=x",
     "callback=x", "$httpHeaders=x", "X-Amz-Signature=x"],
)  # fmt: skip
async def test_nobody_hides_usage_or_changes_who_pays_by_a_query(told: str) -> None:
    place = house(Reply.json(CHAT))

    await place.post(f"/acme/v1/chat/completions?beta=true&{told}&alt=sse", {"model": "gpt", "messages": []})

    assert str(place.upstream.requests[0].url) == "http://main.test/v1/chat/completions?beta=true&alt=sse"


async def test_a_model_of_another_provider_is_no_outage_where_nobody_can_translate_the_call() -> None:
    place = house()

    answer = await place.post("/acme/v1/novelty", {"model": "rival", "input": "x"})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "model")
    assert "'rival' is not at the provider 'acme'" in error["message"]
