"""OpenAI's moderations: https://platform.openai.com/docs/api-reference/moderations. They report no usage."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters.body import RequestHead, read_head
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import Operation

DEFAULT_MODEL = "omni-moderation-latest"


class _Named(msgspec.Struct):
    model: str | None = None


_decode = msgspec.json.Decoder(_Named).decode


class OpenAIModerations(OpenAIWire):
    name = "openai.moderations"
    operation: ClassVar[Operation] = Operation.MODERATION

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        try:
            named = _decode(body).model
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            named = "?"  # What is wrong is told below.
        return RequestHead(model=DEFAULT_MODEL) if named is None and not _is_broken(body) else read_head(body)

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        if _decode(body).model is None:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            return msgspec.json.encode({**fields, "model": model})
        return super().with_model(body, head, model)


def _is_broken(body: bytes) -> bool:
    """Whether it is something else than an object that lacks the model alone."""
    try:
        read_head(body)
    except MalformedBodyError as error:
        return error.param != "model"
    return False
