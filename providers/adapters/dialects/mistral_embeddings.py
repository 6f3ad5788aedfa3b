"""Mistral's embeddings: https://docs.mistral.ai/api. OpenAI's in shape; their answers have an id."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.embedding import EmbeddingReply, EmbeddingRequest
from providers.adapters.dialects.openai_embeddings import OpenAIEmbeddings
from providers.adapters.errors import MalformedBodyError

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_SIZE, _TYPE = "output_dimension", "output_dtype"


class MistralEmbeddings(OpenAIEmbeddings):
    name = "mistral.embeddings"
    clients = (b"mistral-client",)
    in_place_of = "openai.embeddings"

    def read_request(  # type: ignore[override]
        self, body: bytes, *, model: str = "", stream: bool | None = None
    ) -> EmbeddingRequest:
        try:
            fields = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBodyError(f"The request body is not a valid JSON object: {error}.") from None
        if fields.pop(_TYPE, None) not in (None, "float"):
            raise MalformedBodyError(f"`{_TYPE}` can be float alone for this model's provider.", param=_TYPE)
        if (size := fields.pop(_SIZE, None)) is not None:
            fields["dimensions"] = size
        asked = super().read_request(msgspec.json.encode(fields), model=model, stream=stream)
        return msgspec.structs.replace(asked, dialect=self.name)

    def write_request(self, asked: EmbeddingRequest, limits: Limits) -> Written:  # type: ignore[override]
        written = super().write_request(asked, limits)
        fields = _decode(written.body)
        fields.pop("user", None)
        if (size := fields.pop("dimensions", None)) is not None:
            fields[_SIZE] = size
        return Written(msgspec.json.encode(fields), written.dropped)

    def write_reply(self, reply: EmbeddingReply, asked: EmbeddingRequest) -> bytes:  # type: ignore[override]
        answer = _decode(super().write_reply(reply, asked))
        return msgspec.json.encode({"id": f"embd-{secrets.token_hex(16)}", **answer})
