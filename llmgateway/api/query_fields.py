"""What the simple API takes: questions in plain fields, checked before anything else happens."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TypeVar

import msgspec

from billing.money import PICO_PER_USD
from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.requests import Spending
from llmgateway.pipeline.terms import LARGEST_HOLD

TASK_TYPES = ("text_generation", "summarization", "sentiment_analysis", "question_answering")
EXPECTED_RESPONSE_TOKENS = 100
"""Of an estimate whose caller does not say."""
MOST_TOKENS = 10_000_000
MOST_MODELS = 16
"""Models that one question may be asked of at once."""
LONGEST_QUERY = 32_000
"""Bytes of a question."""
LONGEST_GATEWAY_QUERY = 100_000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_FIELD = re.compile(r" - at `\$\.(\w+)")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")

Fields = TypeVar("Fields", bound=msgspec.Struct)


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A question to one model. `null` is the same as absent."""

    query: str | None = None
    model: str | None = None
    """An alias, or a word for who makes it; absent: the kind of task decides."""
    model_version: str | None = None
    """The provider's own name of the model."""
    task_type: str | None = None
    request_id: str | None = None
    max_tokens: int | None = None

    def check(self, longest: int = LONGEST_QUERY) -> None:
        """Raises BadRequestError that names the field."""
        check_query(self.query, longest)
        check_task(self.task_type)
        check_request_id(self.request_id)
        check_count("max_tokens", self.max_tokens)


class GatewayQuery(Query, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same with what it may cost, for whom, and whether it is asked at all."""

    max_cost_usd: Decimal | None = None
    dry_run: bool | None = None
    tenant: str | None = None
    expected_response_tokens: int | None = None

    def check(self, longest: int = LONGEST_GATEWAY_QUERY) -> None:
        super().check(longest)
        check_count("expected_response_tokens", self.expected_response_tokens)
        if self.max_cost_usd is not None and not (self.max_cost_usd.is_finite() and self.max_cost_usd >= 0):
            raise BadRequestError("`max_cost_usd` must be an amount of at least 0, such as 0.01.", param="max_cost_usd")

    @property
    def expected_output(self) -> int:
        return expected_output(self.expected_response_tokens, self.max_tokens)

    @property
    def spending(self) -> Spending | None:
        """Rounded down to whole pico-dollars."""
        if self.max_cost_usd is None:
            return None
        largest = (
            Decimal(LARGEST_HOLD) / PICO_PER_USD
        )  # Times a million million, other numbers may be too large to be one.
        most = int(min(self.max_cost_usd, largest) * PICO_PER_USD)
        return Spending(most, expected_output=self.expected_output)


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What somebody wants to know the cost of: a question, or so many tokens."""

    query: str | None = None
    input_tokens: int | None = None
    """In place of what is estimated from the question."""
    model: str | None = None
    model_version: str | None = None
    task_type: str | None = None
    expected_response_tokens: int | None = None
    tenant: str | None = None

    def check(self) -> None:
        """Raises BadRequestError that names the field."""
        if self.input_tokens is None or self.query is not None:
            check_query(self.query, LONGEST_GATEWAY_QUERY)
        check_task(self.task_type)
        check_count("input_tokens", self.input_tokens, least=0)
        check_count("expected_response_tokens", self.expected_response_tokens, least=0)


class ParallelQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A question to several models at once."""

    query: str | None = None
    models: list[str] | None = None
    """Absent: one of each word that this key has a model for."""
    model_versions: dict[str, str] | None = None
    """The provider's own names, by those in `models`."""
    task_type: str | None = None
    request_id: str | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    """Seconds that each model may take."""

    def check(self) -> None:
        """Raises BadRequestError that names the field."""
        check_query(self.query, LONGEST_QUERY)
        check_task(self.task_type)
        check_request_id(self.request_id)
        check_count("max_tokens", self.max_tokens)
        if self.timeout is not None and not 0 < self.timeout <= 3600:
            raise BadRequestError("`timeout` must be a number of seconds above 0, up to 3600.", param="timeout")
        models = self.models or []
        if len(models) > MOST_MODELS:
            raise BadRequestError(f"`models` may name up to {MOST_MODELS} models; send fewer.", param="models")
        if len(set(models)) < len(models) or "" in models:
            raise BadRequestError("`models` must name each model once, and none that is empty.", param="models")
        if stray := [name for name in self.model_versions or {} if models and name not in models]:
            raise BadRequestError(
                f"`model_versions` names '{stray[0]}', which `models` does not.", param="model_versions"
            )


class Download(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An answer that somebody wants as a file."""

    response: str | None = None
    format: str | None = None

    def check(self) -> None:
        """Raises BadRequestError that names the field."""
        if not self.response:
            raise BadRequestError("`response` is empty; send the text of the file.", param="response")
        if self.format not in {None, "txt"}:
            raise BadRequestError("`format` must be txt, the one kind of file there is.", param="format")


def read_fields(body: bytes, kind: type[Fields]) -> Fields:
    """The fields of a body; fields that nobody knows are refused, for one may be a mistyped largest price.

    Raises:
        BadRequestError: it is no JSON object of these fields; `param` names the one at fault.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"The request body is not valid JSON: {error}.", code="invalid_json") from None


def _wrong_field(text: str) -> BadRequestError:
    if unknown := _UNKNOWN.search(text):
        return BadRequestError(f"There is no field `{unknown[1]}` here; leave it out.", param=unknown[1])
    if field := _FIELD.search(text):
        reason = text.partition(" - at ")[0].replace("`", "").replace(" | null", "")
        return BadRequestError(f"`{field[1]}` has the wrong type: {reason[0].lower()}{reason[1:]}.", param=field[1])
    return BadRequestError("The request body must be a JSON object.", code="invalid_json")


def check_query(query: str | None, longest: int) -> None:
    if query is None or not query.strip():
        raise BadRequestError("`query` is empty; send the text of the question.", param="query")
    if (size := len(query.encode())) > longest:
        raise BadRequestError(f"`query` has {size:,} bytes, and {longest:,} are the most; send less.", param="query")


def check_task(task_type: str | None) -> None:
    if task_type and task_type not in TASK_TYPES:
        raise BadRequestError(f"`task_type` must be one of {', '.join(TASK_TYPES)}.", param="task_type")


def check_request_id(request_id: str | None) -> None:
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise BadRequestError(
            "`request_id` must be 1 to 128 letters, digits or any of . _ : / + = -", param="request_id"
        )


def check_count(name: str, count: int | None, *, least: int = 1) -> None:
    if count is not None and not least <= count <= MOST_TOKENS:
        raise BadRequestError(f"`{name}` must be a number from {least} to {MOST_TOKENS:,}.", param=name)


def expected_output(expected: int | None, cap: int | None = None) -> int:
    """Tokens that an answer is expected to have."""
    found = EXPECTED_RESPONSE_TOKENS if expected is None else expected
    return found if cap is None else min(found, cap)
