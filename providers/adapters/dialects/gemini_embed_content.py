"""Gemini's embedContent and batchEmbedContents: https://ai.google.dev/api/embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from providers.adapters.body import RequestHead
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._gemini_fields import proto, proto_object, proto_objects
from providers.adapters.dialects._gemini_head import joined, read_fields, resource
from providers.adapters.dialects._gemini_usage import read_usage, write_usage
from providers.adapters.dialects._gemini_wire import GeminiWire
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.embedding import EmbeddingReply, EmbeddingRequest
from providers.adapters.errors import (
    InexpressibleError,
    MalformedAnswerError,
    MalformedBodyError,
    MalformedUsageError,
)
from providers.adapters.types import JSONObject, Operation, Usage


class _Vector(msgspec.Struct):
    values: list[float] = []


class _Answer(msgspec.Struct, rename="camel"):
    embedding: _Vector | None = None
    embeddings: list[_Vector] = []
    usage_metadata: dict[str, Any] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_requests = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


class GeminiEmbeddings(GeminiWire):
    """What asking for one vector and for several have in common."""

    operation: ClassVar[Operation] = Operation.EMBEDDINGS
    translates: ClassVar[bool] = True
    own_headers: ClassVar[tuple[bytes, ...]] = (b"x-goog-",)

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        read_fields(body)
        if not model:
            raise MalformedBodyError("The path names no model; call /v1beta/models/MODEL:embedContent.", param="model")
        return RequestHead(model)

    # A caller's dialect and a provider's have the same operation, so both speak of embeddings.

    def read_reply(self, body: bytes) -> EmbeddingReply:  # type: ignore[override]
        try:
            answer = _decode_answer(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MalformedAnswerError(f"the embeddings cannot be read: {error}") from None
        vectors = answer.embeddings if answer.embedding is None else [answer.embedding]
        return EmbeddingReply("", tuple(vector.values for vector in vectors), _usage(answer))


class GeminiEmbedContent(GeminiEmbeddings):
    name = "gemini.embed_content"

    def read_request(  # type: ignore[override]
        self, body: bytes, *, model: str = "", stream: bool | None = None
    ) -> EmbeddingRequest:
        return _read(proto(Fields.of_body(body)), model, self.name)

    def write_request(self, asked: EmbeddingRequest, limits: Limits) -> Written:  # type: ignore[override]
        if len(asked.inputs) != 1:
            raise InexpressibleError("Only one text at a time can be embedded this way.", param="input")
        return Written(msgspec.json.encode(_written(asked, 0, limits.model)), _dropped(asked))

    def write_reply(self, reply: EmbeddingReply, asked: EmbeddingRequest) -> bytes:  # type: ignore[override]
        written: JSONObject = {"embedding": {"values": reply.vectors[0] if reply.vectors else []}}
        return msgspec.json.encode(written | _written_usage(reply))


class GeminiBatchEmbedContents(GeminiEmbeddings):
    name = "gemini.batch_embed_contents"

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        """Each of the requests names it once more."""
        fields = read_fields(body)
        try:
            requests = _decode_requests(fields.get("requests", msgspec.Raw(b"[]")))
        except msgspec.ValidationError:
            return body  # The provider says what is wrong with it.
        named = msgspec.Raw(msgspec.json.encode(resource(model)))
        parts = [joined({**request, "model": named}) for request in requests]
        return joined({**fields, "requests": msgspec.Raw(b"[" + b",".join(parts) + b"]")})

    def read_request(  # type: ignore[override]
        self, body: bytes, *, model: str = "", stream: bool | None = None
    ) -> EmbeddingRequest:
        fields = proto(Fields.of_body(body))
        requests = [_read(request, model, self.name) for request in proto_objects(fields, "requests")]
        if not requests:
            raise fields.wrong("requests", "a list that is not empty")
        first = requests[0]
        alike = msgspec.structs.replace
        if any(alike(request, inputs=(), title="") != alike(first, inputs=(), title="") for request in requests):
            raise fields.wrong("requests", "alike but for their texts, for this model's provider takes one setting")
        return alike(first, inputs=tuple(text for request in requests for text in request.inputs))

    def write_request(self, asked: EmbeddingRequest, limits: Limits) -> Written:  # type: ignore[override]
        requests = [_written(asked, number, limits.model) for number in range(len(asked.inputs))]
        return Written(msgspec.json.encode({"requests": requests}), _dropped(asked))

    def write_reply(self, reply: EmbeddingReply, asked: EmbeddingRequest) -> bytes:  # type: ignore[override]
        vectors = [{"values": vector} for vector in reply.vectors]
        return msgspec.json.encode({"embeddings": vectors, **_written_usage(reply)})


def _read(fields: Fields, model: str, dialect: str) -> EmbeddingRequest:
    content = proto_object(fields, "content")
    parts = [] if content is None else list(proto_objects(content, "parts"))
    if not parts:
        raise fields.wrong("content", "an object whose `parts` have text")
    text = "".join(part.required_text("text") for part in parts)
    fields.get("model")  # The path has it.
    # Settings stand beside the content, or in an object of their own.
    settings = proto_object(fields, "embedContentConfig") or fields
    return EmbeddingRequest(
        model,
        (text,),
        dimensions=settings.integer("outputDimensionality"),
        task_type=settings.text("taskType"),
        title=settings.text("title"),
        extra={} if settings is fields else settings.rest(),
        dialect=dialect,
    )


def _written(asked: EmbeddingRequest, number: int, model: str) -> JSONObject:
    text = asked.inputs[number]
    if not isinstance(text, str):
        raise InexpressibleError("This model's provider embeds texts and no tokens; send text.", param="input")
    settings = {"outputDimensionality": asked.dimensions, "taskType": asked.task_type, "title": asked.title}
    return {
        "model": resource(model),
        "content": {"parts": [{"text": text}]},
        **{name: value for name, value in settings.items() if value},
    }


def _dropped(asked: EmbeddingRequest) -> tuple[str, ...]:
    foreign = [] if asked.dialect.startswith("gemini.") else list(asked.extra)
    return tuple((["user"] if asked.user else []) + foreign)


def _usage(answer: _Answer) -> Usage | None:
    try:
        return None if answer.usage_metadata is None else read_usage(answer.usage_metadata)
    except MalformedUsageError as error:
        raise MalformedAnswerError(str(error)) from None


def _written_usage(reply: EmbeddingReply) -> JSONObject:
    if reply.usage is None:
        return {}
    usage = write_usage(reply.usage)
    return {"usageMetadata": {name: usage[name] for name in ("promptTokenCount", "totalTokenCount")}}
