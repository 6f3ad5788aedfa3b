"""The asynchronous client: the synchronous one's twin, method by method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from llmgateway.client.answers import (
    Chat,
    Estimate,
    Parallel,
    QueryAnswer,
    Status,
    chat_of,
    exactly,
    parallel_of,
    query_of,
    status_of,
    value_of,
)
from llmgateway.client.errors import GatewayError, error_of, failure_of
from llmgateway.client.requests import STREAM_HEADERS, Messages, Sent, StreamState, base_url, chat_request, said
from llmgateway.client.retries import Course, Retries, models_of
from llmgateway.http import httpx


class AsyncGateway:
    """A gateway, called with one key, for one event loop; `aclose` it, or use it in an `async with`.

    `model` may be a list wherever it is asked for: the next one is tried when one cannot answer.

    Example:
        async with AsyncGateway("http://localhost:8000", key="sk-gw-…", timeout_s=60) as gateway:
            print((await gateway.chat("Hello", model="smart")).text)
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        timeout_s: float = 600.0,
        retries: Retries = Retries(),  # noqa: B008  # It is frozen.
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = retries
        self._client = httpx.AsyncClient(
            base_url=base_url(url),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def chat(self, messages: Messages, *, model: str | Sequence[str], **parameters: Any) -> Chat:
        """The answer to a question or conversation; `parameters` are OpenAI's (`temperature=0`, `tools=[…]`).

        Raises:
            GatewayError: there is none; see `llmgateway.client.errors`.

        Example:
            (await gateway.chat([{"role": "user", "content": "Hi"}], model=["smart", "cheap"], max_tokens=100)).text
        """
        answer, asked = await self._send(chat_request(messages, parameters), models_of(model))
        return chat_of(answer.content, answer.headers, asked)

    async def stream(self, messages: Messages, *, model: str | Sequence[str], **parameters: Any) -> AsyncTextStream:
        """The same piece by piece. Nothing is tried again once the first piece is here.

        Example:
            async for text in await gateway.stream("Tell a story", model="smart"):
                print(text, end="")
        """
        sent, course = chat_request(messages, parameters, stream=True), Course(models_of(model), self._retries)
        while True:
            try:
                return await self._begin(sent, course.model)
            except GatewayError as error:
                await asyncio.sleep(course.wait_after(error))

    async def query(
        self,
        query: str,
        *,
        model: str | Sequence[str] | None = None,
        model_version: str | None = None,
        task_type: str | None = None,
        max_tokens: int | None = None,
        max_cost_usd: Decimal | str | None = None,
        tenant: str | None = None,
        request_id: str | None = None,
    ) -> QueryAnswer:
        """The answer to a plain question. Without a `model` the kind of task decides.

        Raises:
            BudgetExceededError: it is expected to cost more than `max_cost_usd`; nothing was sent.

        Example:
            (await gateway.query("Summarise: …", task_type="summarization", max_cost_usd="0.01")).response
        """
        fields = said(query=query, model_version=model_version, task_type=task_type, max_tokens=max_tokens,
                      max_cost_usd=max_cost_usd, tenant=tenant, request_id=request_id)  # fmt: skip
        answer, _ = await self._send(Sent("/v1/gateway/query", fields), models_of(model))
        return query_of(exactly(answer.content))

    async def parallel(
        self,
        query: str,
        *,
        models: Sequence[str] | None = None,
        model_versions: Mapping[str, str] | None = None,
        max_tokens: int | None = None,
        timeout_s: float | None = None,
    ) -> Parallel:
        """The answers of several models at once; one that fails is among them, with its `error`.

        Example:
            (await gateway.parallel("Why?", models=["smart", "cheap"])).responses["smart"].response
        """
        fields = said(query=query, models=models and list(models), model_versions=model_versions,
                      max_tokens=max_tokens, timeout=timeout_s)  # fmt: skip
        answer, _ = await self._send(Sent("/api/parallel", fields), [""])
        return parallel_of(answer.content)

    async def estimate(
        self,
        query: str,
        *,
        model: str | None = None,
        expected_response_tokens: int | None = None,
        task_type: str | None = None,
    ) -> Estimate:
        """What a question would cost, by the price and the function of the bill. Nothing is sent to a provider.

        Example:
            (await gateway.estimate("Why?", model="smart", expected_response_tokens=500)).estimated_cost_usd
        """
        fields = said(query=query, expected_response_tokens=expected_response_tokens, task_type=task_type)
        answer, _ = await self._send(Sent("/v1/gateway/cost-estimate", fields), models_of(model))
        return value_of(Estimate, exactly(answer.content))

    async def dry_run(self, query: str, *, model: str | None = None, **fields: Any) -> Estimate:
        """Who would answer, and for how much; `fields` are those of `query`. Refused as the question would be."""
        sent = Sent("/v1/gateway/query", {"query": query, "dry_run": True, **said(**fields)})
        answer, _ = await self._send(sent, models_of(model))
        return value_of(Estimate, exactly(answer.content))

    async def models(self) -> list[str]:
        """Those that this key may call."""
        answer, _ = await self._send(Sent("/v1/models", {}, "GET"), [""])
        return [each["id"] for each in answer.json()["data"]]

    async def status(self) -> Status:
        """Who is well."""
        answer, _ = await self._send(Sent("/api/status?details=true", {}, "GET"), [""])
        return status_of(answer.content)

    async def _send(self, sent: Sent, models: Sequence[str]) -> tuple[httpx.Response, str]:
        """The answer, and the model that gave it."""
        course = Course(models, self._retries)
        while True:
            try:
                return await self._once(sent, course.model), course.model
            except GatewayError as error:
                await asyncio.sleep(course.wait_after(error))

    async def _once(self, sent: Sent, model: str) -> httpx.Response:
        content = sent.body(model) if sent.method == "POST" else None
        try:
            answer = await self._client.request(sent.method, sent.path, content=content)
        except httpx.TransportError as error:
            raise failure_of(error) from error
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.headers, answer.content)
        return answer

    async def _begin(self, sent: Sent, model: str) -> AsyncTextStream:
        content = sent.body(model)
        request = self._client.build_request(sent.method, sent.path, content=content, headers=STREAM_HEADERS)
        try:
            answer = await self._client.send(request, stream=True)
            if answer.status_code >= 400:
                try:
                    raise error_of(answer.status_code, answer.headers, await answer.aread())
                finally:
                    await answer.aclose()
            return await AsyncTextStream.begun(answer, model)
        except httpx.TransportError as error:
            raise failure_of(error) from error


class AsyncTextStream:
    """The text of an answer as it comes. What is known at its end stands in its attributes then.

    Leaving it early (`aclose`, or the end of an `async with`) ends the call upstream.
    """

    def __init__(self, answer: httpx.Response, model: str) -> None:
        self._answer = answer
        self._lines = aiter(answer.aiter_lines())
        self._first = ""
        self._state = StreamState(answer.headers.get("x-request-id", ""))
        self.model = model

    @classmethod
    async def begun(cls, answer: httpx.Response, model: str) -> Self:
        """A stream whose first line is here: what fails before it may still be tried again."""
        stream = cls(answer, model)
        try:
            stream._first = await anext(stream._lines, "")
        except BaseException:
            await answer.aclose()
            raise
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            for text in self._state.texts(self._first):
                yield text
            async for line in self._lines:
                for text in self._state.texts(line):
                    yield text
        except httpx.TransportError as error:
            raise failure_of(error) from error
        finally:
            await self._answer.aclose()

    async def aclose(self) -> None:
        await self._answer.aclose()

    @property
    def request_id(self) -> str:
        return self._state.request_id

    @property
    def finish_reason(self) -> str:
        return self._state.finish_reason

    @property
    def input_tokens(self) -> int:
        return self._state.input_tokens

    @property
    def output_tokens(self) -> int:
        return self._state.output_tokens

    @property
    def cost_usd(self) -> Decimal | None:
        return self._state.cost_usd
