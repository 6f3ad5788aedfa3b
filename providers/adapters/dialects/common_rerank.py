"""Reranking, in the form that Cohere (https://docs.cohere.com/reference/rerank), Jina and vLLM have in common.

A `query` and `documents` go in, indexes with their relevance come out. Some bill tokens, some searches: a query with up
to a hundred documents, of which long ones count several times.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from providers.adapters.dialects._openai_wire import OpenAIWire, count, member
from providers.adapters.dialects._searches import search_units
from providers.adapters.types import JSONObject, Operation, Units, Usage

DOCUMENTS_A_SEARCH = 100
BYTES_A_DOCUMENT = 500
"""Longer ones are cut by the provider; a piece has at least so many tokens, and a token is at least a byte."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Asked(msgspec.Struct):
    documents: Any = None
    texts: Any = None


class _Answer(msgspec.Struct):
    usage: Any = None
    meta: Any = None
    model: Any = None


_decode_asked = msgspec.json.Decoder(_Asked).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class CommonRerank(OpenAIWire):
    name = "common.rerank"
    operation: ClassVar[Operation] = Operation.RERANK
    measures = True
    counts_units = True

    def asked_units(self, body: bytes) -> Units:
        """The most searches that it can be billed as."""
        pieces = documents_of(body) + len(body) // BYTES_A_DOCUMENT
        return (("search", max(1, -(-pieces // DOCUMENTS_A_SEARCH))),)

    def answer_usage(self, body: bytes) -> tuple[JSONObject | None, str]:
        try:
            answer = _decode_answer(body)
        except _UNREADABLE:
            return None, ""
        raw = answer.usage if isinstance(answer.usage, dict) else answer.meta
        return raw if isinstance(raw, dict) else None, answer.model if isinstance(answer.model, str) else ""

    def usage(self, raw: JSONObject) -> Usage:
        billed = member(raw, "billed_units")
        tokens = count(billed, "input_tokens") or count(member(raw, "tokens"), "input_tokens")
        tokens = tokens or count(raw, "prompt_tokens") or count(raw, "total_tokens")
        return Usage(input=tokens, units=search_units(billed, "search_units"))


def documents_of(body: bytes) -> int:
    asked = _decode_asked(body)
    documents = asked.documents if isinstance(asked.documents, list) else asked.texts
    return len(documents) if isinstance(documents, list) else 1
