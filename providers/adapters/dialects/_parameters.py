"""Setting fields of requests in the words of OpenAI's chat completions, whatever the dialect of the request.

What a dialect has no word for is left out. Which model a request asks, what about, and how the answer comes is not for
others to set.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from providers.adapters.errors import MalformedBodyError

Fields = dict[str, msgspec.Raw]
Path = tuple[str, ...]
"""The name of a field, behind those of the fields that it is in."""

_NEVER = frozenset({"model", "stream", "stream_options", "messages", "input", "prompt", "system"})
_NULL = b"null"
_encode = msgspec.json.encode
_decode_fields = msgspec.json.Decoder(Fields).decode


class Vocabulary(NamedTuple):
    """How a dialect says what OpenAI's chat completions say."""

    words: Mapping[str, Path] = MappingProxyType({})
    """Where it has what is called otherwise there."""
    lacks: frozenset[str] = frozenset()
    """What it cannot say."""
    has_others: bool = True
    """What is not in `words` is called the same, and stands at the top."""
    rivals: Mapping[str, str] = MappingProxyType({})
    """Two names of one thing: who sets the one takes the other away."""
    spellings: Mapping[str, str] = MappingProxyType({})
    """Other ways to write the names of fields."""
    lists: frozenset[str] = frozenset()
    """Fields that are lists even of one."""

    def path(self, name: str) -> Path | None:
        """None: it cannot be said, or set."""
        if name in _NEVER or name in self.lacks:
            return None
        return self.words.get(name) or ((name,) if self.has_others else None)


CHAT = Vocabulary(rivals={"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"})
RESPONSES = Vocabulary(
    words={
        "max_tokens": ("max_output_tokens",),
        "max_completion_tokens": ("max_output_tokens",),
        "reasoning_effort": ("reasoning", "effort"),
        "verbosity": ("text", "verbosity"),
    },
    lacks=frozenset(
        {
            "stop", "n", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "response_format",
            "modalities", "audio", "prediction", "functions", "function_call", "web_search_options", "tools",
            "tool_choice",
        }
    ),
)  # fmt: skip
MESSAGES = Vocabulary(
    words={
        "max_tokens": ("max_tokens",),
        "max_completion_tokens": ("max_tokens",),
        "stop": ("stop_sequences",),
        "user": ("metadata", "user_id"),
    },
    lacks=(RESPONSES.lacks - {"stop"})
    | {
        "reasoning_effort", "verbosity", "store", "parallel_tool_calls", "top_logprobs", "safety_identifier",
        "prompt_cache_key", "service_tier", "metadata",
    },
    lists=frozenset({"stop_sequences"}),
)  # fmt: skip
GENERATE = Vocabulary(
    words={
        name: ("generationConfig", own)
        for name, own in {
            "max_tokens": "maxOutputTokens",
            "max_completion_tokens": "maxOutputTokens",
            "temperature": "temperature",
            "top_p": "topP",
            "top_k": "topK",
            "stop": "stopSequences",
            "n": "candidateCount",
            "seed": "seed",
            "presence_penalty": "presencePenalty",
            "frequency_penalty": "frequencyPenalty",
        }.items()
    },
    has_others=False,
    spellings={
        "generationConfig": "generation_config",
        "maxOutputTokens": "max_output_tokens",
        "topP": "top_p",
        "topK": "top_k",
        "stopSequences": "stop_sequences",
        "candidateCount": "candidate_count",
        "presencePenalty": "presence_penalty",
        "frequencyPenalty": "frequency_penalty",
    },
    lists=frozenset({"stopSequences"}),
)


def with_parameters(
    body: bytes, defaults: Mapping[str, Any], overrides: Mapping[str, Any], vocabulary: Vocabulary
) -> bytes:
    """`body` with `defaults` for what it does not say and `overrides` for all; null removes. The same if nothing changes.

    Raises:
        MalformedBodyError: it cannot be said there.
    """
    fields = _fields(body)
    before = dict(fields)
    for name, value in defaults.items():
        path, rival = vocabulary.path(name), vocabulary.rivals.get(name, "")
        if path is not None and value is not None and not _says(fields, path, vocabulary) and not _said(fields, rival):
            _set(fields, path, value, vocabulary)
    for name, value in overrides.items():
        path, rival = vocabulary.path(name), vocabulary.rivals.get(name, "")
        if path is None:
            continue
        if overrides.get(rival) is None:
            fields.pop(rival, None)
        _set(fields, path, value, vocabulary)
    return body if fields == before else _joined(fields)


def _set(fields: Fields, path: Path, value: Any, vocabulary: Vocabulary) -> None:
    name = _spelled(fields, path[0], vocabulary)
    if len(path) > 1:
        inner = _fields(bytes(fields[name])) if _said(fields, name) else {}
        before = dict(inner)
        _set(inner, path[1:], value, vocabulary)
        if inner != before:
            fields[name] = msgspec.Raw(_joined(inner))
    elif value is None:
        fields.pop(name, None)
    else:
        fields[name] = msgspec.Raw(
            _encode([value] if path[0] in vocabulary.lists and isinstance(value, str) else value)
        )


def _says(fields: Fields, path: Path, vocabulary: Vocabulary) -> bool:
    name = _spelled(fields, path[0], vocabulary)
    if not _said(fields, name):
        return False
    return len(path) == 1 or _says(_fields(bytes(fields[name])), path[1:], vocabulary)


def _spelled(fields: Fields, name: str, vocabulary: Vocabulary) -> str:
    other = vocabulary.spellings.get(name, name)
    return other if other in fields else name


def _said(fields: Fields, name: str) -> bool:
    """Null is the same as absent."""
    return bytes(fields.get(name, _NULL)).strip() != _NULL


def _fields(body: bytes) -> Fields:
    try:
        return _decode_fields(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedBodyError("what parameters are set in is not a JSON object.") from None


def _joined(fields: Fields) -> bytes:
    return b"{" + b",".join([_encode(name) + b":" + bytes(value) for name, value in fields.items()]) + b"}"
