"""Servers of one's own behind the gateway, each as the page in `docs/backends` sets it up."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from llmgateway.pipeline.snapshot import Deployment
from llmgateway.pipeline.upstream import Upstream
from providers.adapters.registry import get_adapter
from providers.adapters.types import Usage
from tests.api.own_servers import FILES, MANNERS, OwnServer
from tests.gateways import House, alias, deployment, snapshot

SERVERS = list(MANNERS)
HELLO = [{"role": "user", "content": "Hi"}]
LONG = [{"role": "user", "content": "x" * 5_000}]


def behind(name: str) -> Deployment:
    adapter, manner = get_adapter(name), MANNERS[name]
    secret = manner.key or None
    return deployment(
        provider=f"local-{name}", adapter=adapter, model=manner.model or "tgi", headers=adapter.headers(secret)
    )


def house(server: OwnServer) -> House:
    upstream: Any = server
    return House(upstream, snapshot(alias("gpt", behind(server.name))))


def used(name: str, kind: str) -> Usage:
    expected = json.loads(FILES[name, "expected.json"])
    return msgspec.convert(expected[kind], Usage)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_chat_is_answered_and_metered_by_the_server_s_own_figures(name: str) -> None:
    of = house(OwnServer(name))

    answer = await of.chat({"messages": HELLO, "max_tokens": 5})

    assert answer.status_code == 200
    usage = used(name, "usage")
    assert (of.row["usage_source"], of.row["input"], of.row["cache_read"]) == (
        "provider",
        usage.input,
        usage.cache_read,
    )
    assert (of.row["output"], of.row["reasoning"]) == (usage.output, usage.reasoning)


@pytest.mark.parametrize("asks", [False, True], ids=["not asked", "asked"])
@pytest.mark.parametrize("name", SERVERS)
async def test_streams_are_metered_whether_or_not_the_caller_asks(name: str, asks: bool) -> None:
    of = house(OwnServer(name))
    options = {"stream_options": {"include_usage": True}} if asks else {}

    answer = await of.chat({"messages": HELLO, "stream": True, **options})

    usage = used(name, "stream_usage")
    assert answer.content.rstrip().endswith(b"[DONE]")
    assert (b'"choices":[],' in answer.content) is asks
    assert (of.row["usage_source"], of.row["output"]) == ("provider", usage.output)


@pytest.mark.parametrize("name", SERVERS)
async def test_callers_of_other_protocols_are_translated(name: str) -> None:
    of = house(OwnServer(name))
    asked = {"model": "gpt", "max_tokens": 9, "messages": HELLO, "system": "Be brief."}

    answer = await of.post("/v1/messages", asked)

    assert answer.json()["type"] == "message"
    (sent,) = of.upstream.bodies
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["max_tokens"] == 9


@pytest.mark.parametrize("name", ["vllm", "tgi", "llamacpp"])
async def test_a_prompt_that_is_too_long_is_known_as_such(name: str) -> None:
    of = house(OwnServer(name))

    answer = await of.chat({"messages": LONG})

    assert answer.status_code in {400, 422}
    assert of.row["error_type"] == "context_too_long"


@pytest.mark.parametrize("name", ["tgi", "llamacpp"])
async def test_a_server_that_is_full_or_loading_counts_as_overloaded(name: str) -> None:
    server = OwnServer(name)
    of = house(server)
    server.full = server.loading = True

    await of.chat({"messages": HELLO})

    assert of.row["error_type"] == "overloaded"


@pytest.mark.parametrize("name", ["vllm", "llamacpp"])
async def test_a_key_that_the_server_refuses_is_not_the_caller_s_fault(name: str) -> None:
    server = OwnServer(name)
    wrong = deployment(adapter=get_adapter(name), headers=((b"authorization", b"Bearer wrong"),))
    upstream: Any = server
    of = House(upstream, snapshot(alias("gpt", wrong)))

    answer = await of.chat({"messages": HELLO})

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_authentication_failed")


@pytest.mark.parametrize("name", SERVERS)
async def test_probes_and_tests_of_the_connection_find_the_list_of_models(name: str) -> None:
    server = OwnServer(name)
    target = behind(name)

    status = await Upstream(server.transport).probe(target, "/models")

    assert status == 200
    assert str(server.requests[0].url) == target.adapter.models_url(target.base_url)


async def test_llama_cpp_says_below_its_version_too_that_it_is_loading() -> None:
    server = OwnServer("llamacpp")
    upstream = Upstream(server.transport)
    before = await upstream.probe(behind("llamacpp"), "/health")
    server.loading = True

    after = await upstream.probe(behind("llamacpp"), "/health")

    assert (before, after) == (200, 503)
