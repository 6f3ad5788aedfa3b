"""What the results of a batch used and cost: a file of one JSON object a line, or a list within the answer about the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from billing.pricing import PriceVersion, in_force
from llmgateway.pipeline.metering import Metered, metered
from llmgateway.pipeline.snapshot import Deployment
from providers.adapters.dialects.base import Dialect
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import Usage

_ABSENT = msgspec.Raw(b"null")
_KINDS = {
    "chat.completion": "openai.chat",
    "text_completion": "openai.completions",
    "response": "openai.responses",
    "list": "openai.embeddings",
    "message": "anthropic.messages",
}
"""In which dialect an answer is, by the `object` or `type` that it says to be."""
_Shapes = tuple[tuple[tuple[str, ...], str], ...]
_SHAPES: _Shapes = (
    (("pages",), "mistral.ocr"),
    (("results",), "openai.moderations"),
    (("data",), "openai.images"),
    (("text",), "openai.transcriptions"),
)
"""The same for answers that do not say it, by fields of which one is enough; the first that fits."""
_BARE: _Shapes = (
    (("embedding",), "gemini.embed_content"),
    (("candidates", "usage_metadata"), "gemini.generate_content"),
)
"""The same for answers that nothing is around."""
_BUCKETS = (
    "input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input", "output", "reasoning",
    "audio_output",
)  # fmt: skip
_SPEAKING = frozenset(
    {"openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "gemini.generate_content"}
)
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Line(msgspec.Struct):
    """One result, in any provider's form: `response.body`, `result.message`, or the `response` itself."""

    response: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT


class _Wrapped(msgspec.Struct):
    body: msgspec.Raw = _ABSENT
    message: msgspec.Raw = _ABSENT


class _Shape(msgspec.Struct, rename="camel"):
    """Of an answer: unparsed, for they are long."""

    object: Any = None
    type: Any = None
    candidates: msgspec.Raw = _ABSENT
    usage_metadata: msgspec.Raw = _ABSENT
    token_count: Any = None
    embedding: msgspec.Raw = _ABSENT
    pages: msgspec.Raw = _ABSENT
    results: msgspec.Raw = _ABSENT
    data: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT


class _Listed(msgspec.Struct, rename="camel"):
    inlined_responses: list[msgspec.Raw] = []


class _Output(msgspec.Struct, rename="camel"):
    inlined_responses: _Listed | None = None
    inlined_embed_content_responses: _Listed | None = None


class _Metadata(msgspec.Struct):
    """Of an operation; elsewhere callers write into it what they like."""

    model: Any = None
    output: _Output | None = None


class _Job(msgspec.Struct):
    """A batch with its results in it: `outputs`, `results`, or within an operation's `metadata`."""

    id: Any = None
    name: Any = None
    model: Any = None
    output_file: Any = None
    outputs: msgspec.Raw = _ABSENT
    results: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode
_decode_shape = msgspec.json.Decoder(_Shape).decode
_decode_job = msgspec.json.Decoder(_Job).decode
_decode_metadata = msgspec.json.Decoder(_Metadata).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Bill(NamedTuple):
    """What the results of one batch come to."""

    metered: Metered
    deployment: Deployment | None
    """Of the model that answered; None: none of those that are configured."""
    price: PriceVersion | None
    """None: some of it has none."""


class Job(NamedTuple):
    """A batch that brings its results with it."""

    id: str
    file: str
    """What holds them as well; empty: nothing does."""
    model: str
    lines: Sequence[bytes | msgspec.Raw]


def bill_of(
    results: bytes | Sequence[bytes | msgspec.Raw], deployments: Sequence[Deployment], *, now: float, model: str = ""
) -> Bill | None:
    """None: these are no results, or nobody can read them. `deployments` are the provider's; `model` is the batch's, as far as it is known.

    A price of a model called `<model>:batch` holds for its batches; without one, the usual price.
    """
    if not deployments:
        return None
    counted: dict[str, _Count] = {}
    for body, dialect in _answers(results.splitlines() if isinstance(results, bytes) else results):
        raw, named = dialect.answer_usage(body)
        if (count := counted.get(named)) is None:
            count = counted[named] = _Count(named or model, _priced(named, model, deployments, now))
        count.add(_metered(body, dialect, raw, count, deployments[0]))
    return merged([count.bill() for count in counted.values()])


def merged(bills: Sequence[Bill]) -> Bill | None:
    """One for all of them; None: there are none."""
    if len(bills) < 2:
        return bills[0] if bills else None
    models: dict[str, int] = {}
    for bill in bills:
        for model, requests in (bill.metered.raw or {}).get("models", {}).items():
            models[model] = models.get(model, 0) + requests
    total = bills[0].metered
    for each in (bill.metered for bill in bills[1:]):
        total = _added(total, each)
    total = msgspec.structs.replace(total, raw=_counted(models))
    is_priced = all(bill.price is not None for bill in bills)
    return Bill(total, bills[-1].deployment, bills[-1].price if is_priced else None)


def jobs_of(answer: bytes) -> list[Job]:
    """Batches that are shown with their results: the one that an answer is, or those in its lists."""
    if job := _job_of(answer):
        return [job]
    try:
        fields = _decode_fields(answer)
    except _UNREADABLE:
        return []
    return [job for value in fields.values() for each in _list(value) if (job := _job_of(each))]


def _job_of(answer: bytes | msgspec.Raw) -> Job | None:
    try:
        job = _decode_job(answer)
    except _UNREADABLE:
        return None
    own_id = _text(job.id) or _text(job.name).rpartition("/")[2]
    said = _operation(job.metadata)
    output = said.output or _Output()
    listed = output.inlined_responses or output.inlined_embed_content_responses or _Listed()
    lines = _list(job.outputs) or _list(job.results) or listed.inlined_responses
    if not lines or not own_id:
        return None
    return Job(own_id, _text(job.output_file), _text(job.model) or _text(said.model).removeprefix("models/"), lines)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: msgspec.Raw) -> list[msgspec.Raw]:
    return _decode_list(value) if bytes(value)[:1] == b"[" else []


def _operation(metadata: msgspec.Raw) -> _Metadata:
    try:
        return _decode_metadata(metadata)
    except _UNREADABLE:
        return _Metadata()


class _Count:
    """Of one model's results so far."""

    def __init__(self, model: str, priced: tuple[Deployment | None, PriceVersion | None]) -> None:
        self.deployment, self.price = priced
        self._model = model
        self._requests = 0
        self._metered = Metered()

    def add(self, one: Metered) -> None:
        self._requests += 1
        self._metered = _added(self._metered, one)

    def bill(self) -> Bill:
        raw = _counted({self._model: self._requests})
        said = msgspec.structs.replace(self._metered, raw=raw, response_model=self._model)
        return Bill(said, self.deployment, self.price)


def _counted(models: dict[str, int]) -> dict[str, Any]:
    return {"requests": sum(models.values()), "models": models}


def _priced(
    named: str, model: str, deployments: Sequence[Deployment], now: float
) -> tuple[Deployment | None, PriceVersion | None]:
    """By what the answer says; where that is no model of ours, by what the batch was made with."""
    found = _deployment(named, deployments) or _deployment(model, deployments)
    return found, None if found is None else in_force(found.batch_prices or found.prices, now)


def _metered(body: bytes, dialect: Dialect, raw: dict[str, Any] | None, count: _Count, reader: Deployment) -> Metered:
    """`reader` reads usage where no deployment has the model."""
    by = count.deployment or reader
    said = int(len(body) / by.estimation.chars_per_token) if dialect.name in _SPEAKING else 0
    return metered(
        by, count.price, raw=raw, estimate=Usage(output=said), dialect=dialect, asked=dialect.answered_units(body)
    )


def _answers(lines: Iterable[bytes | msgspec.Raw]) -> Iterator[tuple[bytes, Dialect]]:
    for line in lines:
        try:
            answer, shapes = _answer(_decode_line(line))
            shape = _decode_shape(answer)
        except _UNREADABLE:
            continue  # Any file may be asked for.
        name = _dialect_of(shape, shapes)
        if name:
            yield _completed(bytes(answer), shape), get_dialect(name)


def _answer(result: _Line) -> tuple[msgspec.Raw, _Shapes]:
    """What a model has answered, and what it may be."""
    within = _decode_wrapped(result.response if result.response != _ABSENT else result.result)
    wrapped = next((each for each in (within.body, within.message) if each != _ABSENT), None)
    return (result.response, _BARE) if wrapped is None else (wrapped, _SHAPES)


def _dialect_of(shape: _Shape, shapes: _Shapes) -> str:
    """Empty: nothing that is known, such as an error."""
    if shapes is _SHAPES and (named := _KINDS.get(str(shape.object)) or _KINDS.get(str(shape.type))):
        return named
    return next((name for fields, name in shapes if any(getattr(shape, each) != _ABSENT for each in fields)), "")


def _completed(answer: bytes, shape: _Shape) -> bytes:
    """Embeddings of Google's batches say their tokens in a field of their own."""
    if shape.embedding == _ABSENT or shape.usage_metadata != _ABSENT or not isinstance(shape.token_count, (int, str)):
        return answer
    tokens = int(shape.token_count) if str(shape.token_count).isdecimal() else None
    return msgspec.json.encode({"usageMetadata": {"promptTokenCount": tokens}})


def _added(one: Metered, other: Metered) -> Metered:
    said = [each.reported_pico_usd for each in (one, other) if each.reported_pico_usd is not None]
    return msgspec.structs.replace(
        one,
        usage=_sum(one.usage, other.usage),
        source=_less_certain(one.source, other.source),
        cost_pico_usd=one.cost_pico_usd + other.cost_pico_usd,
        reported_pico_usd=sum(said) if said else None,
    )


def _less_certain(one: str, other: str) -> str:
    return "estimated" if "estimated" in (one, other) else max(one, other, key=("none", "counted", "provider").index)


def _sum(one: Usage, other: Usage) -> Usage:
    units = dict(one.units)
    for name, amount in other.units:
        units[name] = units.get(name, 0) + amount
    return Usage(
        **{bucket: getattr(one, bucket) + getattr(other, bucket) for bucket in _BUCKETS},
        consistent=one.consistent and other.consistent,
        units=tuple(units.items()),
    )


def _deployment(model: str, deployments: Sequence[Deployment]) -> Deployment | None:
    """Answers name models by their date: the longest name that theirs begins with."""
    fitting = [each for each in deployments if model == each.model or model.startswith(each.model + "-")]
    return max(fitting, key=lambda each: len(each.model), default=None)
