"""The handshake of a session, as ASGI has it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from llmgateway.pipeline.upstream import Upstream
from tests.fakes import ScriptedUpstream
from tests.gateways import SECRET, House, alias, deployment, snapshot
from tests.pipeline.test_sessions import Opener, Side

VOICE = deployment(model="gpt-realtime", provider="acme")
CAN_SAY_WHY: dict[str, Any] = {"websocket.http.response": {}}


class Browser:
    """An ASGI client that wants a WebSocket."""

    def __init__(self, query: str = "model=voice", path: str = "/v1/realtime", **more: Any) -> None:
        self.scope = {
            "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [], "client": ("127.0.0.1", 50_000), "subprotocols": ["realtime", f"openai-insecure-api-key.{SECRET}"],
            "extensions": CAN_SAY_WHY, **more,
        }  # fmt: skip
        self.says: asyncio.Queue[Any] = asyncio.Queue()
        self.says.put_nowait({"type": "websocket.connect"})
        self.told: list[Any] = []

    async def call(self, provider: Any) -> House:
        place = House(ScriptedUpstream(), snapshot(alias("voice", VOICE), deployments=(VOICE,)))
        self.opener = Opener(provider)
        place.gateway.upstream = Upstream(place.upstream.transport, self.opener)
        async with asyncio.timeout(5):
            await place.app.open_socket(self.scope, self.says.get, self._send)
        return place

    async def _send(self, message: Any) -> None:
        self.told.append(message)

    @property
    def error(self) -> tuple[int, str]:
        start, body = self.told
        assert (start["type"], body["type"]) == ("websocket.http.response.start", "websocket.http.response.body")
        return start["status"], json.loads(body["body"])["error"]["code"]


async def test_a_browser_is_let_in_and_its_key_stays_here() -> None:
    browser = Browser()
    browser.says.put_nowait({"type": "websocket.disconnect", "code": 1000, "reason": "done"})

    place = await browser.call(Side())

    accepted = browser.told[0]
    headers = dict(accepted["headers"])
    [(_, sent, offered)] = browser.opener.asked
    assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "realtime")
    assert (headers[b"x-gateway-model"], headers[b"x-gateway-provider"]) == (b"voice", b"acme")
    assert offered == ["realtime"]
    assert SECRET not in repr(sent)
    [line] = place.log.lines
    assert (line["http_status"], line["path"], line["alias"], line["key_name"]) == (
        101,
        "/v1/realtime",
        "voice",
        "alice",
    )
    assert line["request_id"].encode() == headers[b"x-request-id"]


async def test_a_session_below_a_provider_s_name() -> None:
    browser = Browser("model=gpt-realtime", "/acme/v1/realtime")
    browser.says.put_nowait({"type": "websocket.disconnect"})

    place = await browser.call(Side())

    assert place.log.lines[0]["path"] == "/acme/{path}"
    assert dict(browser.told[0]["headers"])[b"x-gateway-model"] == b"acme/gpt-realtime"


async def test_a_refusal_says_why() -> None:
    browser = Browser("model=nothing")

    place = await browser.call(Side())

    assert browser.error == (404, "model_not_found")
    assert (place.log.lines[0]["status"], place.log.lines[0]["error_type"]) == ("refused", "model_not_found")


async def test_a_caller_s_own_key_is_of_no_use_and_the_gateway_s_does_not_pay_in_its_place() -> None:
    own = [(b"x-gateway-provider-key", b"sk-own-key-of-carol-0123456789"), (b"x-gateway-provider", b"acme")]
    browser = Browser(headers=own)

    await browser.call(Side())

    assert browser.error == (400, "invalid_value")
    assert browser.opener.asked == []


async def test_there_are_no_other_sockets() -> None:
    browser = Browser(path="/acme/v1/elsewhere")

    await browser.call(Side())

    assert browser.error == (404, "unknown_endpoint")


async def test_a_server_that_cannot_say_why_refuses_all_the_same() -> None:
    browser = Browser("model=nothing", extensions={})

    await browser.call(Side())

    assert browser.told == [{"type": "websocket.close", "code": 1008}]


async def test_a_fault_inside_the_gateway_is_a_500() -> None:
    browser = Browser()

    place = await browser.call(RuntimeError("a fault"))

    assert browser.error == (500, "internal_error")
    assert len(place.gateway.exchanges) == 0


async def test_a_caller_who_is_gone_when_the_provider_answers_leaves_nothing_behind() -> None:
    browser, provider = Browser(), Side()

    async def gone(message: Any) -> None:
        raise OSError("gone")

    browser._send = gone  # type: ignore[method-assign]
    place = await browser.call(provider)

    assert provider.closed == (1000, "")
    assert len(place.gateway.exchanges) == 0
    assert place.log.lines[0]["http_status"] == 499
