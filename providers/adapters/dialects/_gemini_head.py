"""What decisions need of Gemini's requests, and the little in their bytes that must change."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec

from providers.adapters.body import MAX_CHOICES, RequestHead
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._gemini_fields import camel, proto
from providers.adapters.errors import MalformedBodyError
from providers.adapters.field_names import LARGE_BYTES, field_names, refuse_absurd
from providers.adapters.types import JSONObject

_CONFIG = "generationConfig"
# Names that decide what is admitted and billed. A string inside the body has its quotes escaped, so it cannot match.
_DECIDING = re.compile(
    rb'"(generationConfig|generation_config|maxOutputTokens|max_output_tokens|candidateCount|candidate_count'
    rb'|thinkingConfig|thinking_config|thinkingBudget|thinking_budget)"'
)
_ESCAPED_NAME = re.compile(rb"\\u00[4-7]")
_MODEL_NAME = re.compile(rb'"model"[ \t\r\n]*:|\\u00')

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder(Any).decode


def read_generate_head(body: bytes, *, model: str, stream: bool | None) -> RequestHead:
    """Raises MalformedBodyError; `param` names the field."""
    fields = read_fields(body)
    if not model:
        raise MalformedBodyError("The path names no model; call /v1beta/models/MODEL:generateContent.", param="model")
    _refuse_repeated(body)
    raw = fields.get(_CONFIG)
    config = proto(Fields.of_value({} if raw is None else _decode(raw) or {}, _CONFIG))
    cap, choices = config.integer("maxOutputTokens"), config.integer("candidateCount")
    if choices is not None and choices > MAX_CHOICES:
        raise config.wrong("candidateCount", f"{MAX_CHOICES} at most")
    thinking = config.object("thinkingConfig")
    budget = None if thinking is None else proto(thinking).integer("thinkingBudget")
    return RequestHead(
        model,
        stream=stream,
        stream_options={"include_usage": True},
        max_tokens=cap,
        max_completion_tokens=cap,
        thinking=None if budget is None else {"budget_tokens": budget},
        n=choices,
    )


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of the body by their names with capitals, unread."""
    if len(body) > LARGE_BYTES:
        refuse_absurd(body)
    try:
        found = _decode_fields(body)
    except msgspec.ValidationError:
        raise MalformedBodyError("The request body must be a JSON object.", param="") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBodyError(f"The request body is not valid JSON: {error}.") from None
    fields: dict[str, msgspec.Raw] = {}
    for name, value in found.items():
        if camel(name) in fields:
            raise _twice(camel(name))
        fields[camel(name)] = value
    return fields


def _refuse_repeated(body: bytes) -> None:
    """What is admitted by one `maxOutputTokens` might be answered and billed by another."""
    names = [match[1] for match in _DECIDING.finditer(body)]
    if len(names) == len({camel(name.decode()) for name in names}) and not _ESCAPED_NAME.search(body):
        return
    # Rare enough to look closely.
    path, settings = "", msgspec.Raw(body)
    for inner in (_CONFIG, "thinkingConfig", ""):
        said = [camel(name) for name in field_names(bytes(settings))]
        if len(said) > len(set(said)):
            raise _twice(path + Counter(said).most_common(1)[0][0])
        if inner not in said:
            return
        path += f"{inner}."
        settings = next(value for name, value in _decode_fields(settings).items() if camel(name) == inner)


def _twice(param: str) -> MalformedBodyError:
    return MalformedBodyError(f"The request body has more than one `{param}`; send one.", param=param)


def with_model(body: bytes, model: str) -> bytes:
    """`body` with `model` wherever it repeats what the path says; most often nowhere."""
    if not _MODEL_NAME.search(body):
        return body
    fields = _decode_fields(body)
    if "model" not in fields:
        return body
    fields["model"] = msgspec.Raw(msgspec.json.encode(resource(model)))
    return joined(fields)


def resource(model: str) -> str:
    """As Google names it."""
    return model if "/" in model else f"models/{model}"


def capped(body: bytes, cap: int) -> bytes:
    """`body` with a `maxOutputTokens` of 1 to `cap`."""
    fields = _decode_fields(body)
    holder = next((name for name in fields if camel(name) == _CONFIG), _CONFIG)
    value = _decode(fields[holder]) if holder in fields else None
    config: JSONObject = value if isinstance(value, dict) else {}
    name = next((name for name in config if camel(name) == "maxOutputTokens"), "maxOutputTokens")
    present = config.get(name)
    if present is None or not 0 < present <= cap:
        config[name] = cap
        fields[holder] = msgspec.Raw(msgspec.json.encode(config))
    return joined(fields)


def joined(fields: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in fields.items()) + b"}"
