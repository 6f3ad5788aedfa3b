"""Headers that differ from request to request, and the short-lived tokens that some of them need."""

from __future__ import annotations

import asyncio

import pytest

from llmgateway.http import httpx
from llmgateway.pipeline import upstream
from llmgateway.pipeline.departure import StaleConnectionError, was_sent
from llmgateway.pipeline.upstream import Upstream, UpstreamError, has_reached_provider
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import Headers, TokenRequest
from tests.fakes import Reply, ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, snapshot


class TokenSigner:
    """Needs a token from elsewhere, once."""

    def __init__(self) -> None:
        self.token = b""

    def token_request(self, now: float) -> TokenRequest | None:
        return None if self.token else TokenRequest("https://tokens.test/token", ((b"x-who", b"us"),), b"please")

    def take_token(self, status: int, body: bytes, now: float) -> None:
        if status != 200:
            raise ValueError(f"status {status} without a token")
        self.token = body

    def headers(self, method: str, url: str, body: bytes, now: float) -> Headers:
        return ((b"authorization", b"Signed " + self.token), (b"x-signed", f"{method} {url} {len(body)}".encode()))


def house(*replies: Reply | Exception) -> House:
    signed = deployment(headers=(), signer=TokenSigner())
    return House(ScriptedUpstream(*replies), snapshot(alias("gpt", signed)))


def token(text: str = "t-1") -> Reply:
    return Reply(200, {"content-type": "text/plain"}, (text.encode(),))


async def test_a_request_is_signed_with_a_token_that_is_fetched_once() -> None:
    place = house(token(), Reply.json(CHAT), Reply.json(CHAT))

    answers = [await place.chat() for _ in range(2)]

    fetch, first, second = place.upstream.requests
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (str(fetch.url), fetch.content, fetch.headers["x-who"]) == ("https://tokens.test/token", b"please", "us")
    assert first.headers["authorization"] == second.headers["authorization"] == "Signed t-1"
    assert first.headers["x-signed"] == f"POST http://main.test/v1/chat/completions {len(first.content)}"


async def test_many_requests_at_once_fetch_one_token() -> None:
    place = house(Reply(200, {"content-type": "text/plain"}, (b"t-1",), delay_s=0.02), *[Reply.json(CHAT)] * 20)

    answers = await asyncio.gather(*(place.chat() for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert len([request for request in place.upstream.requests if request.url.host == "tokens.test"]) == 1


async def test_a_credential_that_brings_no_token_is_the_gateway_s_fault_and_costs_nothing() -> None:
    place = house(Reply(403, {"content-type": "text/plain"}, (b"no",)))

    answer = await place.chat()

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_authentication_failed")
    assert "Ask an admin" in answer.json()["error"]["message"]
    assert (place.row["cost_pico_usd"], place.row["counted"]) == (0, False)


async def test_a_token_that_was_asked_for_is_no_work_of_a_model() -> None:
    class Tokens(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            was_sent.set(True)
            raise httpx.ReadError("gone") if request.url.host == "tokens.test" else AssertionError(request.url)

    signed = deployment(headers=(), signer=TokenSigner())

    with pytest.raises(UpstreamError):
        await Upstream(Tokens()).send(signed, get_dialect("openai.chat"), body=b"{}", headers=(), streamed=False)

    assert not has_reached_provider()


async def test_a_dead_connection_to_those_who_give_tokens_is_no_attempt() -> None:
    place = house(StaleConnectionError("closed without an answer"), token(), Reply.json(CHAT))

    answer = await place.chat()

    assert (answer.status_code, answer.headers["x-gateway-attempts"]) == (200, "1")


async def test_those_who_give_tokens_are_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "TOKEN_S", 0.05)
    place = house(*[Reply(200, {"content-type": "text/plain"}, (b"t-1",), delay_s=60)] * 3)

    answers = await asyncio.wait_for(asyncio.gather(*(place.chat() for _ in range(3))), 5)

    assert [answer.status_code for answer in answers] == [502] * 3
    assert [row["cost_pico_usd"] for row in place.ledger.closed] == [0] * 3


async def test_a_token_is_no_larger_than_a_token_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MOST_TOKEN_BYTES", 100)
    place = house(Reply(200, {"content-type": "text/plain"}, (b"t" * 60, b"t" * 60, AssertionError("read on"))))

    answer = await place.chat()

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_authentication_failed")
