"""What dialects have in common whose requests bring files: a form, or JSON where a server takes that as well."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from providers.adapters.body import MAX_CHOICES, RequestHead
from providers.adapters.dialects._multipart import Form
from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.errors import MalformedBodyError

_TRUE = frozenset({"true", "1"})


@lru_cache(maxsize=2)
def read_form(body: bytes) -> Form:
    """A body is asked several times in a row, from its admission to when it is sent. Raises MalformedBodyError."""
    return Form(body)


class FormWire(OpenAIWire):
    """A form with the fields of OpenAI's JSON. The files in it stay the caller's bytes."""

    json_requests = False

    def read_head(self, body: bytes, *, model: str = "", stream: bool | None = None) -> RequestHead:
        if is_json(body):
            return super().read_head(body, model=model, stream=stream)
        form = read_form(body)
        for name in ("model", "stream", "n"):
            form.only(name)
        values = form.values()
        if not values.get("model"):
            raise MalformedBodyError("The form lacks `model`; name the model to call.", param="model")
        return RequestHead(
            model=values["model"],
            stream=values.get("stream", "").strip().lower() in _TRUE,
            n=_choices(values.get("n", "")),
            user=values.get("user"),
        )

    def with_model(self, body: bytes, head: RequestHead, model: str) -> bytes:
        if is_json(body):
            return super().with_model(body, head, model)
        return body if head.model == model else read_form(body).with_value("model", model)

    def text(self, body: bytes) -> bytes:
        # Those who estimate tokens look for attachments in JSON.
        return body if is_json(body) else msgspec.json.encode(read_form(body).values())

    def content_type(self, body: bytes) -> bytes:
        return b"application/json" if is_json(body) else read_form(body).content_type


def is_json(body: bytes) -> bool:
    """Forms begin with two hyphens."""
    return body[:64].lstrip().startswith(b"{")


def _choices(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) > MAX_CHOICES:
        raise MalformedBodyError("`n` has to be a number of choices.", param="n")
    return int(text)
