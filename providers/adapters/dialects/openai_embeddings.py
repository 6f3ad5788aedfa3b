"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._openai_wire import OpenAIWire, without_caller
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.embedding import EmbeddingReply, EmbeddingRequest
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import JSONObject, Operation, Usage


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Vector]
    model: str = ""
    usage: dict[str, Any] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class OpenAIEmbeddings(OpenAIWire):
    name = "openai.embeddings"
    operation: ClassVar[Operation] = Operation.EMBEDDINGS
    translates: ClassVar[bool] = True

    def deciding_fields(self, fields: JSONObject) -> JSONObject | None:
        return without_caller(fields)

    def is_complete(self, body: bytes, *, stream: bool) -> bool:
        try:
            return bool(_decode_answer(body).data)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return False

    # A caller's dialect and a provider's have the same operation, so both speak of embeddings.

    def read_request(  # type: ignore[override]
        self, body: bytes, *, model: str = "", stream: bool | None = None
    ) -> EmbeddingRequest:
        fields = Fields.of_body(body)
        encoding = fields.one_of("encoding_format", ("float", "base64"), "float")
        return EmbeddingRequest(
            fields.required_text("model"),
            _inputs(fields),
            dimensions=fields.integer("dimensions"),
            encoding="base64" if encoding == "base64" else "float",
            user=fields.text("user"),
            extra=fields.rest(),
            dialect=self.name,
        )

    def write_request(self, asked: EmbeddingRequest, limits: Limits) -> Written:  # type: ignore[override]
        body: JSONObject = {"model": limits.model, "input": asked.inputs, "encoding_format": "float"}
        if asked.dimensions is not None:
            body["dimensions"] = asked.dimensions
        if asked.user:
            body["user"] = asked.user
        unsaid = {"taskType": asked.task_type, "title": asked.title, **asked.extra}
        return Written(msgspec.json.encode(body), tuple(name for name, value in unsaid.items() if value))

    def read_reply(self, body: bytes) -> EmbeddingReply:  # type: ignore[override]
        try:
            answer = _decode_answer(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MalformedAnswerError(f"the embeddings cannot be read: {error}") from None
        vectors = sorted(answer.data, key=lambda vector: vector.index)
        return EmbeddingReply(
            answer.model, tuple(_numbers(vector.embedding) for vector in vectors), self._usage_of(answer)
        )

    def _usage_of(self, answer: _Answer) -> Usage | None:
        try:
            return None if answer.usage is None else self.usage(answer.usage)
        except MalformedUsageError as error:
            raise MalformedAnswerError(str(error)) from None

    def write_reply(self, reply: EmbeddingReply, asked: EmbeddingRequest) -> bytes:  # type: ignore[override]
        write = _encoded if asked.encoding == "base64" else _as_they_are
        data = [
            {"object": "embedding", "index": index, "embedding": write(vector)}
            for index, vector in enumerate(reply.vectors)
        ]
        tokens = reply.usage.input_tokens if reply.usage is not None else 0
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return msgspec.json.encode(
            {"object": "list", "data": data, "model": reply.model or asked.model, "usage": usage}
        )


def _inputs(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    """One text or several, each perhaps as a list of tokens."""
    value = fields.get("input")
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise fields.wrong("input", "a string, or a list of strings or tokens that is not empty")
    if all(map(_is_token, value)):
        return (tuple(value),)
    inputs: list[str | tuple[int, ...]] = []
    for each in value:
        if isinstance(each, str):
            inputs.append(each)
        elif isinstance(each, list) and each and all(map(_is_token, each)):
            inputs.append(tuple(each))
        else:
            raise fields.wrong("input", "a string, or a list of strings or of lists of tokens")
    return tuple(inputs)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(embedding: str | list[float]) -> list[float]:
    if not isinstance(embedding, str):
        return embedding
    try:
        raw = base64.b64decode(embedding, validate=True)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (binascii.Error, ValueError, struct.error) as error:
        raise MalformedAnswerError(f"a vector cannot be read: {error}") from None


def _encoded(vector: list[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error) as error:
        raise MalformedAnswerError(f"a vector has a number that 32 bits cannot hold: {error}") from None


def _as_they_are(vector: list[float]) -> list[float]:
    return vector
