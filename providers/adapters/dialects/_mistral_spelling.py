"""Mistral's chat requests in OpenAI's spelling, and OpenAI's in Mistral's. Both are JSON that was read."""

from __future__ import annotations

import hashlib
import re
import string
from typing import Any

from providers.adapters.types import JSONObject

_TO_OPENAI = {"random_seed": "seed"}
_TO_MISTRAL = {"seed": "random_seed"}
_FIELDS = frozenset(
    {
        *("model", "messages", "stream", "max_tokens", "temperature", "top_p", "top_k", "min_tokens", "stop"),
        *("random_seed", "metadata", "response_format", "tools", "tool_choice", "parallel_tool_calls", "n"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs"),
        *("prompt_logprobs", "top_prompt_logprobs", "prediction", "reasoning_effort", "prompt_mode", "guardrails"),
        *("prompt_cache_key", "service_tier", "safe_prompt"),
    }
)
"""Whatever else a request has, Mistral refuses it: https://docs.mistral.ai/api."""
_SILENT = frozenset({"stream_options", "user", "store", "max_completion_tokens"})
"""Left out without a word: the answer is the same without them."""
_MESSAGE_FIELDS = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
_CALL_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = string.digits + string.ascii_letters


def to_openai(body: JSONObject) -> JSONObject:
    """A request of Mistral's. What OpenAI's format has no word for keeps its name."""
    said = {_TO_OPENAI.get(name, name): value for name, value in body.items() if value is not None}
    if isinstance(messages := said.get("messages"), list):
        said["messages"] = [_message_to_openai(each) if isinstance(each, dict) else each for each in messages]
    return said


def _message_to_openai(message: JSONObject) -> JSONObject:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    thoughts = [each for each in content if _kind(each) == "thinking"]
    said: JSONObject = {**message, "content": [_part_to_openai(each) for each in content if _kind(each) != "thinking"]}
    if thoughts:
        said["reasoning_content"] = "".join(map(thought_of, thoughts))
    return said


def _part_to_openai(part: Any) -> Any:
    match _kind(part):
        case "document_url":
            file = {"file_data": part.get("document_url"), "filename": part.get("document_name")}
            return {"type": "file", "file": {name: value for name, value in file.items() if value}}
        case "file" if "file_id" in part:
            return {"type": "file", "file": {"file_id": part["file_id"]}}
        case "input_audio" if isinstance(sound := part.get("input_audio"), str):
            return {"type": "input_audio", "input_audio": {"data": sound, "format": "mp3"}}
        case _:
            return part


def thought_of(part: JSONObject) -> str:
    """The text of a part of the type `thinking`."""
    inner = part.get("thinking")
    if isinstance(inner, str):
        return inner
    texts = [each.get("text") for each in inner if isinstance(each, dict)] if isinstance(inner, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def thought(text: str) -> JSONObject:
    """As Mistral writes it."""
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def to_mistral(body: JSONObject) -> tuple[JSONObject, list[str]]:
    """A request in OpenAI's spelling, and what had to be left out."""
    said = {_TO_MISTRAL.get(name, name): value for name, value in body.items()}
    kept = {name: value for name, value in said.items() if name in _FIELDS}
    kept["messages"] = [_message_to_mistral(each) for each in body["messages"]]
    return kept, [name for name in said if name not in _FIELDS and name not in _SILENT]


def _message_to_mistral(message: JSONObject) -> JSONObject:
    known = _MESSAGE_FIELDS[message["role"]]
    kept = {name: value for name, value in message.items() if name in known}
    if isinstance(content := kept.get("content"), list):
        kept["content"] = [_part_to_mistral(each) for each in content]
    if thoughts := message.get("reasoning_content"):
        kept["content"] = [thought(thoughts), *_parts(kept.get("content"))]
    if calls := kept.get("tool_calls"):
        kept["tool_calls"] = [{**call, "id": call_id(call["id"])} for call in calls]
    if "tool_call_id" in kept:
        kept["tool_call_id"] = call_id(kept["tool_call_id"])
    return kept


def _part_to_mistral(part: JSONObject) -> JSONObject:
    if part["type"] == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]["data"]}
    if part["type"] == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if part["type"] == "file":
        file = part["file"]
        return {"type": "document_url", "document_url": file["file_data"], "document_name": file["filename"]}
    return part


def _parts(content: Any) -> list[JSONObject]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def call_id(given: str) -> str:
    """Nine letters and digits, as Mistral will have it; the same for the same id, so that results find their calls."""
    if _CALL_ID.fullmatch(given):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode()).digest()[:8])
    made = ""
    for _ in range(9):
        number, digit = divmod(number, len(_DIGITS))
        made += _DIGITS[digit]
    return made


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else ""
