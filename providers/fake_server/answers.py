"""What the fake provider says: the same question gets the same answer, and counts like a real one. Pure."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from providers.adapters.types import JSONObject
from providers.fake_server.scripts import Script

_SPEECH = (
    "the gateway answers every request with care and counts what it costs while tokens flow from one model to another "
    "and a budget holds because each call is measured before it leaves so that teams see what they spend and why"
)
WORDS = tuple(_SPEECH.split())
CREATED = 1_767_225_600
CACHE_BLOCK = 128
"""Tokens of a repeated prompt come from the cache in blocks of this size."""
DEFAULT_TOKENS = 24
REASONING_TOKENS = 32


class Answer:
    """One answer, decided in full before the first byte of it goes out."""

    def __init__(self, body: JSONObject, script: Script, *, number: int, cached: bool) -> None:
        self.body = body
        self.script = script
        self.id = f"chatcmpl-fake{number:06d}"
        self.model = str(body.get("model", ""))
        self.choices = max(1, int(body.get("n") or 1))
        self.prompt_tokens = count_tokens(prompt_of(body))
        self.cached_tokens = self.prompt_tokens // CACHE_BLOCK * CACHE_BLOCK if cached else 0
        self.reasoning_tokens = REASONING_TOKENS if body.get("reasoning_effort") else 0
        self.tool = _demanded_tool(body, script.tool)
        self.words, self.finish_reason = self._say()

    def _say(self) -> tuple[list[str], str]:
        if self.tool is not None:
            arguments = self.script.text or json.dumps(plainest_value(self.tool.get("parameters") or {}))
            return [arguments[at : at + 8] for at in range(0, len(arguments), 8)], "tool_calls"
        if self.script.text is not None:
            words = [word + " " for word in self.script.text.split(" ")]
            words[-1] = words[-1].removesuffix(" ")
        else:
            chance = random.Random(zlib.crc32(prompt_of(self.body).encode()))  # noqa: S311  # the same every time
            wanted = DEFAULT_TOKENS if self.script.tokens is None else self.script.tokens
            words = [chance.choice(WORDS) + " " for _ in range(wanted)]
        if self.script.padding:
            words.append("x" * self.script.padding)
        cap = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return (words[:cap], "length") if cap and cap < len(words) else (words, "stop")

    def usage(self, words: int | None = None) -> JSONObject:
        """As OpenAI reports it; after `words` of each choice, for a stream that broke off."""
        said = len(self.words) if words is None else min(words, len(self.words))
        output = said * self.choices + self.reasoning_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.prompt_tokens + output,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens, "audio_tokens": 0},
        }

    def completion(self, *, chat: bool) -> JSONObject:
        """The whole answer in one object."""
        text = "".join(self.words)
        choices = [
            {"index": index, "finish_reason": self.finish_reason, "logprobs": None, **self._said(text, chat=chat)}
            for index in range(self.choices)
        ]
        answer = {**self._frame("chat.completion" if chat else "text_completion"), "choices": choices}
        if self.script.usage != "none":
            answer["usage"] = self.usage()
        return answer

    def _said(self, text: str, *, chat: bool) -> JSONObject:
        if not chat:
            return {"text": text}
        message: JSONObject = {"role": "assistant", "content": text, "refusal": None}
        if self.tool is not None:
            message.update(content=None, tool_calls=[self._tool_call(text)])
        return {"message": message}

    def _tool_call(self, arguments: str) -> JSONObject:
        name = (self.tool or {}).get("name")
        return {"id": f"call_{self.id[-6:]}", "type": "function", "function": {"name": name, "arguments": arguments}}

    def chunks(self, *, chat: bool) -> Iterator[JSONObject]:
        """The answer as a stream of objects, with usage where the request and the script want it."""
        wanted = bool((self.body.get("stream_options") or {}).get("include_usage")) and self.script.usage == "normal"
        frame = self._frame("chat.completion.chunk" if chat else "text_completion")
        frame = {**frame, "usage": None} if wanted else frame
        for choices in self._deltas(chat=chat):
            last = choices[0]["finish_reason"] is not None
            extra: JSONObject = {}
            if last and self.script.usage == "with_choices":
                extra = {"usage": self.usage()}
            elif last and self.script.usage == "x_groq":
                extra = {"x_groq": {"id": "req_fake", "usage": self.usage()}}
            yield {**frame, "choices": choices, **extra}
        if wanted:
            yield {**frame, "choices": [], "usage": self.usage()}

    def _deltas(self, *, chat: bool) -> Iterator[list[JSONObject]]:
        if chat:
            yield self._each({"delta": {"role": "assistant", "content": None if self.tool else "", "refusal": None}})
        for position, word in enumerate(self.words):
            yield self._each(self._delta(word, first=position == 0, chat=chat))
        yield self._each({"delta": {}} if chat else {"text": ""}, self.finish_reason)

    def _each(self, said: JSONObject, finish_reason: str | None = None) -> list[JSONObject]:
        return [
            {"index": index, **said, "logprobs": None, "finish_reason": finish_reason} for index in range(self.choices)
        ]

    def _delta(self, word: str, *, first: bool, chat: bool) -> JSONObject:
        if not chat:
            return {"text": word}
        if self.tool is None:
            return {"delta": {"content": word}}
        call: JSONObject = self._tool_call(word) if first else {"function": {"arguments": word}}
        return {"delta": {"tool_calls": [{"index": 0, **call}]}}

    def _frame(self, kind: str) -> JSONObject:
        return {
            "id": self.id,
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
        }


def embeddings(body: JSONObject) -> JSONObject:
    """A vector for each input, the same for the same text."""
    raw = body.get("input")
    # A list of numbers is one text that was tokenized by the caller.
    is_one = not isinstance(raw, list) or (bool(raw) and isinstance(raw[0], int))
    inputs: list[Any] = [raw] if is_one or not isinstance(raw, list) else raw
    vectors = [_vector(json.dumps(each), int(body.get("dimensions") or 16)) for each in inputs]
    tokens = sum(len(each) if isinstance(each, list) else count_tokens(str(each)) for each in inputs)
    as_base64 = body.get("encoding_format") == "base64"
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": body.get("model"),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, dimensions: int) -> list[float]:
    chance = random.Random(zlib.crc32(text.encode()))  # noqa: S311  # the same every time
    return [round(chance.uniform(-1, 1), 6) for _ in range(dimensions)]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def count_tokens(text: str) -> int:
    return len(text) // 4 + 3


def prompt_of(body: JSONObject) -> str:
    """Everything the model would read."""
    prompt = body.get("messages") or body.get("prompt") or ""
    return prompt if isinstance(prompt, str) else json.dumps([prompt, body.get("tools")])


def _demanded_tool(body: JSONObject, scripted: str) -> JSONObject | None:
    """The function that `tool_choice` insists on, or the script."""
    functions = [tool.get("function") or {} for tool in body.get("tools") or []]
    choice = body.get("tool_choice")
    if scripted or isinstance(choice, dict):
        chosen = choice if isinstance(choice, dict) else {}
        name = scripted or (chosen.get("function") or {}).get("name")
        return next((function for function in functions if function.get("name") == name), None)
    return functions[0] if functions and choice == "required" else None


def plainest_value(schema: JSONObject) -> Any:
    """The plainest value that fits a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: plainest_value(each) for name, each in (schema.get("properties") or {}).items()}
    return {"string": "Paris", "integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}.get(str(kind))
