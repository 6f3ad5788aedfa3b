"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
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


class Gateway:
    """A gateway, called with one key. Safe for several threads at once; `close` it, or use it in a `with`.

    `model` may be a list wherever it is asked for: the next one is tried when one cannot answer.

    Example:
        with Gateway("http://localhost:8000", key="sk-gw-…", timeout_s=60) as gateway:
            print(gateway.chat("Hello", model="smart").text)
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        timeout_s: float = 600.0,
        retries: Retries = Retries(),  # noqa: B008  # It is frozen.
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = retries
        self._client = httpx.Client(
            base_url=base_url(url),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def chat(self, messages: Messages, *, model: str | Sequence[str], **parameters: Any) -> Chat:
        """The answer to a question or conversation; `parameters` are OpenAI's (`temperature=0`, `tools=[…]`).

        Raises:
            GatewayError: there is none; see `llmgateway.client.errors`.

        Example:
            gateway.chat([{"role": "user", "content": "Hi"}], model=["smart", "cheap"], max_tokens=100).text
        """
        answer, asked = self._send(chat_request(messages, parameters), models_of(model))
        return chat_of(answer.content, answer.headers, asked)

    def stream(self, messages: Messages, *, model: str | Sequence[str], **parameters: Any) -> TextStream:
        """The same piece by piece. Nothing is tried again once the first piece is here.

        Example:
            for text in gateway.stream("Tell a story", model="smart"):
                print(text, end="")
        """
        sent, course = chat_request(messages, parameters, stream=True), Course(models_of(model), self._retries)
        while True:
            try:
                return self._begin(sent, course.model)
            except GatewayError as error:
                time.sleep(course.wait_after(error))  # noqa: TID251  # This client is synchronous.

    def query(
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
            gateway.query("Summarise: …", task_type="summarization", max_cost_usd="0.01").response
        """
        fields = said(query=query, model_version=model_version, task_type=task_type, max_tokens=max_tokens,
                      max_cost_usd=max_cost_usd, tenant=tenant, request_id=request_id)  # fmt: skip
        answer, _ = self._send(Sent("/v1/gateway/query", fields), models_of(model))
        return query_of(exactly(answer.content))

    def parallel(
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
            for model, answer in gateway.parallel("Why?", models=["smart", "cheap"]).responses.items():
                print(model, answer.response or answer.error)
        """
        fields = said(query=query, models=models and list(models), model_versions=model_versions,
                      max_tokens=max_tokens, timeout=timeout_s)  # fmt: skip
        answer, _ = self._send(Sent("/api/parallel", fields), [""])
        return parallel_of(answer.content)

    def estimate(
        self,
        query: str,
        *,
        model: str | None = None,
        expected_response_tokens: int | None = None,
        task_type: str | None = None,
    ) -> Estimate:
        """What a question would cost, by the price and the function of the bill. Nothing is sent to a provider.

        Example:
            gateway.estimate("Why?", model="smart", expected_response_tokens=500).estimated_cost_usd
        """
        fields = said(query=query, expected_response_tokens=expected_response_tokens, task_type=task_type)
        answer, _ = self._send(Sent("/v1/gateway/cost-estimate", fields), models_of(model))
        return value_of(Estimate, exactly(answer.content))

    def dry_run(self, query: str, *, model: str | None = None, **fields: Any) -> Estimate:
        """Who would answer, and for how much; `fields` are those of `query`. Refused as the question would be."""
        sent = Sent("/v1/gateway/query", {"query": query, "dry_run": True, **said(**fields)})
        answer, _ = self._send(sent, models_of(model))
        return value_of(Estimate, exactly(answer.content))

    def models(self) -> list[str]:
        """Those that this key may call."""
        answer, _ = self._send(Sent("/v1/models", {}, "GET"), [""])
        return [each["id"] for each in answer.json()["data"]]

    def status(self) -> Status:
        """Who is well."""
        answer, _ = self._send(Sent("/api/status?details=true", {}, "GET"), [""])
        return status_of(answer.content)

    def _send(self, sent: Sent, models: Sequence[str]) -> tuple[httpx.Response, str]:
        """The answer, and the model that gave it."""
        course = Course(models, self._retries)
        while True:
            try:
                return self._once(sent, course.model), course.model
            except GatewayError as error:
                time.sleep(course.wait_after(error))  # noqa: TID251  # This client is synchronous.

    def _once(self, sent: Sent, model: str) -> httpx.Response:
        content = sent.body(model) if sent.method == "POST" else None
        try:
            answer = self._client.request(sent.method, sent.path, content=content)
        except httpx.TransportError as error:
            raise failure_of(error) from error
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.headers, answer.content)
        return answer

    def _begin(self, sent: Sent, model: str) -> TextStream:
        content = sent.body(model)
        request = self._client.build_request(sent.method, sent.path, content=content, headers=STREAM_HEADERS)
        try:
            answer = self._client.send(request, stream=True)
            if answer.status_code >= 400:
                with closing(answer):
                    raise error_of(answer.status_code, answer.headers, answer.read())
            return TextStream(answer, model)
        except httpx.TransportError as error:
            raise failure_of(error) from error


class TextStream:
    """The text of an answer as it comes. What is known at its end stands in its attributes then.

    Leaving it early (`close`, or the end of a `with`) ends the call upstream.
    """

    def __init__(self, answer: httpx.Response, model: str) -> None:
        self._answer = answer
        self._lines = answer.iter_lines()
        self._state = StreamState(answer.headers.get("x-request-id", ""))
        self.model = model
        # What fails before the first line may still be tried again.
        try:
            self._first = next(self._lines, "")
        except BaseException:
            answer.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        with closing(self._answer):
            try:
                yield from self._state.texts(self._first)
                for line in self._lines:
                    yield from self._state.texts(line)
            except httpx.TransportError as error:
                raise failure_of(error) from error

    def close(self) -> None:
        self._answer.close()

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
