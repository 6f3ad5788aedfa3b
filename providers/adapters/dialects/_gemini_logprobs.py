"""Log probabilities: Gemini's `logprobsResult`, and the common form, which is OpenAI's."""

from __future__ import annotations

from typing import Any

from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.types import JSONObject


def read_logprobs(raw: Any) -> JSONObject | None:
    """None where there are none."""
    if not isinstance(raw, dict):
        return None
    raw = plain_names(raw)
    chosen, tops = _objects(raw.get("chosenCandidates")), _objects(raw.get("topCandidates"))
    content = []
    for number, token in enumerate(chosen):
        others = _objects(tops[number].get("candidates")) if number < len(tops) else []
        content.append({**_read(token), "top_logprobs": [_read(other) for other in others]})
    return {"content": content} if content else None


def _read(token: JSONObject) -> JSONObject:
    text = str(token.get("token", ""))
    # A probability of 1 is left out, as Google's JSON does with zeros.
    return {"token": text, "logprob": token.get("logProbability", 0.0), "bytes": list(text.encode())}


def write_logprobs(logprobs: JSONObject | None) -> JSONObject | None:
    content = _tokens((logprobs or {}).get("content"))
    if not content:
        return None
    return {
        "chosenCandidates": [_write(token) for token in content],
        "topCandidates": [
            {"candidates": [_write(other) for other in _tokens(token.get("top_logprobs"))]} for token in content
        ],
    }


def _tokens(value: Any) -> list[JSONObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _write(token: JSONObject) -> JSONObject:
    return {"token": token.get("token"), "logProbability": token.get("logprob")}


def _objects(value: Any) -> list[JSONObject]:
    return [plain_names(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else []
