"""The client for Python: what it sends, what it gives back, and when it tries again. Both kinds, over a scripted wire."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from llmgateway.client import (
    AsyncGateway,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConnectionFailedError,
    Gateway,
    GatewayError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    Retries,
    ServerError,
    TimedOutError,
)
from llmgateway.client.errors import seconds_of
from llmgateway.client.retries import Course
from llmgateway.http import httpx

AT_ONCE = Retries(attempts=2, initial_s=0.0)
COMPLETION = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
TOLD = {"x-request-id": "req_1", "x-gateway-model": "smart", "x-gateway-cost-usd": "0.000000072",
        "x-llm-input-tokens": "11", "x-llm-output-tokens": "5", "x-gateway-attempts": "1"}  # fmt: skip
EVENTS = (
    b": keep-alive\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
    b": x-gateway-cost-usd: 0.000000072\n\n"
)

Answer = httpx.Response | Exception


class Wire:
    """Gives its answers in turn, and keeps what was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = deque(answers)
        self.sent: list[httpx.Request] = []
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def models(self) -> list[str]:
        return [json.loads(each.content)["model"] for each in self.sent]


def ok(content: Any = COMPLETION, **headers: str) -> httpx.Response:
    return httpx.Response(200, json=content, headers={**TOLD, **headers})


def error(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"error": {"message": "No.", "type": "t", "code": code, "param": "model"}}
    return httpx.Response(status, json=body, headers={"x-request-id": "req_9", **named})


def synchronous(wire: Wire, method: str, *args: Any, retries: Retries = AT_ONCE, **kwargs: Any) -> Any:
    with Gateway("http://gateway.test/v1/", key="sk", retries=retries, transport=wire.transport) as gateway:
        return getattr(gateway, method)(*args, **kwargs)


def asynchronous(wire: Wire, method: str, *args: Any, retries: Retries = AT_ONCE, **kwargs: Any) -> Any:
    async def call() -> Any:
        async with AsyncGateway("http://gateway.test", key="sk", retries=retries, transport=wire.transport) as gateway:
            return await getattr(gateway, method)(*args, **kwargs)

    return asyncio.run(call())


Caller = Callable[..., Any]


@pytest.fixture(params=[synchronous, asynchronous])
def call(request: pytest.FixtureRequest) -> Caller:
    caller: Caller = request.param
    return caller


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, inspect.Signature]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(each) for name, each in members if not name.startswith("_")}

    one, other = offered(Gateway), offered(AsyncGateway)

    assert one.keys() - {"close"} == other.keys() - {"aclose"}
    for name in one.keys() - {"close", "stream"}:
        assert one[name].parameters.keys() == other[name].parameters.keys(), name


def test_a_chat_is_sent_and_read(call: Caller) -> None:
    wire = Wire(ok())

    answer = call(wire, "chat", "Hi", model="smart", temperature=0)

    assert str(wire.sent[0].url) == "http://gateway.test/v1/chat/completions"
    assert wire.sent[0].headers["authorization"] == "Bearer sk"
    assert json.loads(wire.sent[0].content) == {
        "model": "smart", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0
    }  # fmt: skip
    assert (answer.text, answer.model, answer.finish_reason) == ("Hello", "smart", "stop")
    assert (answer.input_tokens, answer.output_tokens, answer.cost_usd) == (11, 5, Decimal("0.000000072"))
    assert (answer.request_id, answer.attempts, answer.cached) == ("req_1", 1, False)
    assert answer.raw["usage"] == {"prompt_tokens": 3}


def test_a_question_is_sent_with_its_price_and_read_exactly(call: Caller) -> None:
    wire = Wire(httpx.Response(200, content=b'{"response":"Yes","actual_cost_usd":0.000000000000072,"new":1}'))

    answer = call(wire, "query", "Hi", model="smart", max_cost_usd=Decimal("1e-9"), tenant="blue")

    assert wire.sent[0].url.path == "/v1/gateway/query"
    assert json.loads(wire.sent[0].content) == {
        "model": "smart", "query": "Hi", "max_cost_usd": "0.000000001", "tenant": "blue"
    }  # fmt: skip
    assert (answer.response, answer.actual_cost_usd) == ("Yes", Decimal("0.000000000000072"))
    assert answer.cost_usd == answer.actual_cost_usd


def test_without_a_model_none_is_sent(call: Caller) -> None:
    wire = Wire(httpx.Response(200, json={"response": "Yes"}))

    call(wire, "query", "Hi", task_type="summarization")

    assert json.loads(wire.sent[0].content) == {"query": "Hi", "task_type": "summarization"}


def test_several_estimates_lists_and_status(call: Caller) -> None:
    told = {
        "responses": {"a": {"response": "Yes"}, "b": {"error": "No", "error_type": "x"}},
        "request_id": "r",
        "elapsed_time_ms": 7,
    }
    priced = b'{"priced":true,"estimated_cost_usd":0.10,"input_per_1m_usd":3,"route":["main"]}'

    several = call(Wire(httpx.Response(200, json=told)), "parallel", "Hi", models=["a", "b"])
    estimate = call(Wire(httpx.Response(200, content=priced)), "estimate", "Hi", model="a")
    dry = call(Wire(httpx.Response(200, content=priced)), "dry_run", "Hi", model="a", max_cost_usd="1")
    models = call(Wire(httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]})), "models")
    status = call(Wire(httpx.Response(200, json={"openai": True, "providers": {"p": "healthy"}})), "status")

    assert (several.responses["a"].response, list(several.failed), several.elapsed_time_ms) == ("Yes", ["b"], 7)
    assert (estimate.estimated_cost_usd, estimate.input_per_1m_usd) == (Decimal("0.10"), Decimal(3))
    assert dry.route == ("main",)
    assert models == ["a", "b"]
    assert (status.available, status.providers) == ({"openai": True}, {"p": "healthy"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError), (401, AuthenticationError), (402, BudgetExceededError), (403, PermissionDeniedError),
        (404, NotFoundError), (405, BadRequestError), (408, ServerError), (413, BadRequestError),
        (429, RateLimitError), (500, ServerError), (503, OverloadedError), (504, ServerError),
    ],
)  # fmt: skip
def test_an_error_says_what_it_is(call: Caller, status: int, kind: type[GatewayError]) -> None:
    with pytest.raises(kind) as raised:
        call(Wire(error(status)), "chat", "Hi", model="smart", retries=Retries(attempts=0))

    told = raised.value
    assert (told.message, told.code, told.param, told.status, told.request_id) == (
        "No.", "some_code", "model", status, "req_9"
    )  # fmt: skip
    assert str(told) == f"No. ({status} some_code, req_9)"


def test_a_flat_error_is_understood_too(call: Caller) -> None:
    body = {"error": "`query` is empty.", "error_type": "invalid_value", "param": "query"}

    with pytest.raises(BadRequestError) as raised:
        call(Wire(httpx.Response(400, json=body)), "parallel", "")

    assert (raised.value.message, raised.value.code, raised.value.param) == (
        "`query` is empty.", "invalid_value", "query"
    )  # fmt: skip


@pytest.mark.parametrize("first", [429, 500, 503, 408, httpx.ConnectError("refused"), httpx.ReadError("gone")])
def test_what_may_pass_is_tried_again(call: Caller, first: int | Exception) -> None:
    wire = Wire(error(first) if isinstance(first, int) else first, ok())

    assert call(wire, "chat", "Hi", model="smart").text == "Hello"
    assert len(wire.sent) == 2


@pytest.mark.parametrize("first", [400, 401, 402, 404, httpx.ReadTimeout("slow")])
def test_what_will_not_pass_is_not_tried_again(call: Caller, first: int | Exception) -> None:
    wire = Wire(error(first) if isinstance(first, int) else first)

    with pytest.raises(GatewayError):
        call(wire, "chat", "Hi", model="smart")
    assert len(wire.sent) == 1


def test_nor_is_what_the_gateway_says_no_wait_helps_for(call: Caller) -> None:
    wire = Wire(error(429, x_should_retry="false"))

    with pytest.raises(RateLimitError):
        call(wire, "chat", "Hi", model="smart")
    assert len(wire.sent) == 1


def test_the_tries_end(call: Caller) -> None:
    wire = Wire(error(503), error(503), error(503))

    with pytest.raises(OverloadedError):
        call(wire, "chat", "Hi", model="smart")


def test_another_model_is_asked_when_one_cannot_answer(call: Caller) -> None:
    wire = Wire(error(503), error(503), error(503), error(404, "model_not_found"), error(402), ok())

    answer = call(wire, "chat", "Hi", model=["a", "b", "c", "d"])

    assert wire.models == ["a", "a", "a", "b", "c", "d"]
    assert answer.text == "Hello"


def test_no_other_model_is_asked_what_is_wrong_anyway(call: Caller) -> None:
    wire = Wire(error(400))

    with pytest.raises(BadRequestError):
        call(wire, "chat", "Hi", model=["a", "b"])
    assert wire.models == ["a"]


def test_waits_grow_are_drawn_at_random_and_add_to_what_the_gateway_asks_for() -> None:
    retries = Retries(attempts=100, initial_s=1.0, longest_s=8.0)

    def longest(tried: int, retry_after_s: float | None = None) -> float:
        waits = []
        for _ in range(300):
            course = Course(["a"], retries)
            for _ in range(tried):
                course.wait_after(GatewayError("", may_retry=True))
            waits.append(course.wait_after(GatewayError("", may_retry=True, retry_after_s=retry_after_s)))
        assert min(waits) - (retry_after_s or 0) < 0.1 * 2**tried
        return max(waits)

    assert 0.9 < longest(0) <= 1.0
    assert 3.6 < longest(2) <= 4.0
    assert 7.2 < longest(6) <= 8.0
    assert 5.9 < longest(0, 5.0) <= 6.0


def test_nobody_waits_for_longer_than_is_wanted() -> None:
    course = Course(["a", "b"], Retries(longest_s=5.0))
    asked = GatewayError("", may_retry=True, retry_after_s=60.0)

    assert course.wait_after(asked) == 0.0
    assert course.model == "b"
    with pytest.raises(GatewayError):
        course.wait_after(asked)


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("-1", 0.0), ("soon", None), ("", None), ("inf", None),
                                               ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)])  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


def streamed(content: bytes | httpx.SyncByteStream) -> httpx.Response:
    headers = {"content-type": "text/event-stream", "x-request-id": "req_s"}
    if isinstance(content, bytes):
        return httpx.Response(200, content=content, headers=headers)
    return httpx.Response(200, stream=content, headers=headers)


def read_all(wire: Wire, kind: str, **kwargs: Any) -> tuple[list[str], Any]:
    if kind == "sync":
        with Gateway("http://gateway.test", key="sk", retries=AT_ONCE, transport=wire.transport) as gateway:
            stream = gateway.stream("Hi", **kwargs)
            return list(stream), stream

    async def read() -> tuple[list[str], Any]:
        async with AsyncGateway("http://gateway.test", key="sk", retries=AT_ONCE, transport=wire.transport) as gateway:
            stream = await gateway.stream("Hi", **kwargs)
            return [text async for text in stream], stream

    return asyncio.run(read())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_gives_its_text_and_knows_its_tokens_at_the_end(kind: str) -> None:
    wire = Wire(error(503), streamed(EVENTS))

    texts, stream = read_all(wire, kind, model=["smart"])

    assert texts == ["Hel", "lo"]
    assert json.loads(wire.sent[1].content)["stream_options"] == {"include_usage": True}
    assert (stream.finish_reason, stream.input_tokens, stream.output_tokens) == ("stop", 3, 2)
    assert (stream.request_id, stream.model, stream.cost_usd) == ("req_s", "smart", Decimal("0.000000072"))


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Breaks off behind its pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Any:
        yield from self._pieces
        raise httpx.ReadError("gone")

    async def __aiter__(self) -> Any:
        for piece in self._pieces:
            yield piece
        raise httpx.ReadError("gone")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_has_begun_is_not_tried_again(kind: str) -> None:
    wire = Wire(streamed(Broken(EVENTS[:120])))

    with pytest.raises(ConnectionFailedError):
        read_all(wire, kind, model=["smart", "other"])
    assert len(wire.sent) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_breaks_before_its_first_byte_is_tried_again(kind: str) -> None:
    wire = Wire(streamed(Broken()), streamed(EVENTS))

    assert read_all(wire, kind, model="smart")[0] == ["Hel", "lo"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_error_within_a_stream_is_raised(kind: str) -> None:
    wire = Wire(streamed(b'data: {"error":{"message":"It broke off.","code":"upstream_error"}}\n\n'))

    with pytest.raises(ServerError) as raised:
        read_all(wire, kind, model="smart")
    assert (raised.value.code, raised.value.request_id) == ("upstream_error", "req_s")


def test_a_timeout_is_told_as_one(call: Caller) -> None:
    with pytest.raises(TimedOutError):
        call(Wire(httpx.ReadTimeout("slow")), "models")


def test_a_list_without_models_is_refused_at_once(call: Caller) -> None:
    with pytest.raises(ValueError, match="name a model"):
        call(Wire(), "chat", "Hi", model=[])


def test_it_needs_no_django() -> None:
    code = "import sys, llmgateway.client; sys.exit('django' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
