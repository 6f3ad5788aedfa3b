"""What the fake provider says in Gemini's dialect, and what it refuses there as the real one does. Pure."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator
from typing import Any

from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.types import JSONObject
from providers.fake_server.answers import DEFAULT_TOKENS, WORDS, count_tokens, embeddings, plainest_value
from providers.fake_server.scripts import Script

CALL = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(\w+)")
"""Model and method."""
THOUGHT = "Let me see what the question is about."
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBmYWtl"
THINKING_TOKENS = 16
_SIGNED = re.compile(r"gemini-[3-9]")
"""Models that want the signatures of their calls back."""
_ACCEPTED = {SIGNATURE, "skip_thought_signature_validator"}
_ERRORS = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "models/gone is not found for API version v1beta"),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan and billing details."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
}
_REASONS = {
    "context_too_long": "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
    "content_policy": "The prompt was blocked due to safety settings.",
}


def fault(body: JSONObject, model: str) -> str:
    """What is wrong with a request; empty if nothing is."""
    contents = body.get("contents") or []
    if not contents:
        return "* GenerateContentRequest.contents: contents is not specified"
    for content in contents:
        if content.get("role", "user") not in {"user", "model"}:
            return "Please use a valid role: user, model."
        if not content.get("parts"):
            return "Unable to submit request because it must include at least one parts field"
    for content, following in zip(contents, [*contents[1:], {}], strict=True):
        calls = _having(content, "functionCall")
        if calls and len(calls) != len(_having(following, "functionResponse")):
            return "Please ensure that the number of function response parts is equal to that of function call parts"
        if calls and _SIGNED.search(model) and calls[0].get("thoughtSignature") not in _ACCEPTED:
            return "Function call is missing a thought_signature in functionCall parts."
    return ""


def _having(content: JSONObject, name: str) -> list[JSONObject]:
    return [part for part in content.get("parts") or [] if name in part]


def error_object(status: int, message: str = "", reason: str = "") -> JSONObject:
    name, text = _ERRORS.get(status, ("INTERNAL", "An internal error has occurred."))
    return {"error": {"code": status, "message": message or _REASONS.get(reason, text), "status": name}}


def prompt_of(body: JSONObject) -> str:
    """Everything the model would read."""
    return json.dumps([body.get("systemInstruction"), body.get("tools"), body.get("contents")])


def vectors(body: JSONObject) -> JSONObject:
    """The answer to a request for one embedding or for several."""
    requests = body.get("requests") or [body]
    made = [
        embeddings({"input": json.dumps(request["content"]), "dimensions": request.get("outputDimensionality")})
        for request in requests
    ]
    found = [{"values": each["data"][0]["embedding"]} for each in made]
    return {"embeddings": found} if "requests" in body else {"embedding": found[0]}


class Contents:
    """One answer, decided in full before the first byte of it goes out."""

    def __init__(self, body: JSONObject, script: Script, *, model: str, number: int, cached: bool) -> None:
        self.body = body
        self.script = script
        self.model = model
        self.id = f"fake{number:06d}"
        self.config = body.get("generationConfig") or {}
        self.choices = max(1, int(self.config.get("candidateCount") or 1))
        self.input_tokens = count_tokens(prompt_of(body))
        self.cached = self.input_tokens // 2 if cached else 0
        # Google's own client spells these with underscores.
        thinking = plain_names(self.config.get("thinkingConfig") or {})
        self.thinks = bool(thinking.get("thinkingBudget") or thinking.get("thinkingLevel"))
        self.shows_thoughts = self.thinks and bool(thinking.get("includeThoughts"))
        self.tool = _demanded_tool(body, script.tool)
        self.words, self.finish_reason = self._say()

    def _say(self) -> tuple[list[str], str]:
        if self.tool is not None:
            return [""], "STOP"
        if self.script.text is not None:
            words = [word + " " for word in self.script.text.split(" ")]
            words[-1] = words[-1].removesuffix(" ")
        else:
            chance = random.Random(zlib.crc32(prompt_of(self.body).encode()))  # noqa: S311  # the same every time
            wanted = DEFAULT_TOKENS if self.script.tokens is None else self.script.tokens
            words = [chance.choice(WORDS) + " " for _ in range(wanted)]
        if self.script.padding:
            words.append("x" * self.script.padding)
        cap = self.config.get("maxOutputTokens")
        return (words[:cap], "MAX_TOKENS") if cap and cap < len(words) else (words, "STOP")

    def usage(self, words: int | None = None) -> JSONObject:
        """As Gemini reports it; after so many `words` of each candidate, for a stream that broke off."""
        said = (len(self.words) if words is None else min(words, len(self.words))) * self.choices
        thought = THINKING_TOKENS if self.thinks else 0
        return {
            "promptTokenCount": self.input_tokens,
            "candidatesTokenCount": said,
            "totalTokenCount": self.input_tokens + said + thought,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self.input_tokens}],
            **({"cachedContentTokenCount": self.cached} if self.cached else {}),
            **({"thoughtsTokenCount": thought} if thought else {}),
        }

    @property
    def before(self) -> int:
        """Events before the first word."""
        return 1 if self.shows_thoughts else 0

    def whole(self) -> JSONObject:
        parts = [*self._thoughts(), *self._said("".join(self.words))]
        return self._answer(parts, self.usage(), self.finish_reason)

    def events(self) -> Iterator[JSONObject]:
        """The answer as a stream: each event has the usage so far, the last one the reason to end."""
        if self.shows_thoughts:
            yield self._answer(self._thoughts(), self.usage(0))
        for number, word in enumerate(self.words, 1):
            last = number == len(self.words)
            yield self._answer(self._said(word), self.usage(number), self.finish_reason if last else "")

    def _thoughts(self) -> list[JSONObject]:
        return [{"text": THOUGHT, "thought": True}] if self.shows_thoughts else []

    def _said(self, text: str) -> list[JSONObject]:
        if self.tool is None:
            return [{"text": text}]
        tool = plain_names(self.tool)
        schema = tool.get("parametersJsonSchema") or tool.get("parameters") or {}
        arguments = json.loads(self.script.text) if self.script.text else plainest_value(_lower(schema))
        call: JSONObject = {"functionCall": {"name": tool["name"], "args": arguments}}
        return [call | ({"thoughtSignature": SIGNATURE} if _SIGNED.search(self.model) else {})]

    def _answer(self, parts: list[JSONObject], usage: JSONObject, finish: str = "") -> JSONObject:
        ended = {"finishReason": finish} if finish else {}
        candidates = [
            {"content": {"parts": parts, "role": "model"}, **ended, "index": index} for index in range(self.choices)
        ]
        usage = {} if self.script.usage == "none" else {"usageMetadata": usage}
        return {"candidates": candidates, **usage, "modelVersion": self.model, "responseId": self.id}


def _lower(schema: Any) -> Any:
    """A schema of either kind with the types of JSON Schema."""
    if isinstance(schema, dict):
        return {name: value.lower() if name == "type" else _lower(value) for name, value in schema.items()}
    return schema


def _demanded_tool(body: JSONObject, scripted: str) -> Any:
    """The function that `functionCallingConfig` insists on, or the script."""
    functions = [function for tool in body.get("tools") or [] for function in tool.get("functionDeclarations") or []]
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    allowed = [scripted] if scripted else calling.get("allowedFunctionNames") or []
    if scripted or calling.get("mode") == "ANY":
        return next((each for each in functions if not allowed or each.get("name") in allowed), None)
    return None
