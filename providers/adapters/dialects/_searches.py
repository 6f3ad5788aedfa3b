"""Searches that a provider ran for an answer, and bills beside its tokens.

Anthropic counts them in its usage. OpenAI's Responses and Gemini only show them in the answer, so their number is noted
in the usage that the ledger keeps, under Anthropic's name for it.
"""

from __future__ import annotations

from typing import Any

from providers.adapters.dialects._gemini_fields import plain_names
from providers.adapters.dialects._openai_wire import count
from providers.adapters.types import JSONObject, Units

NOTED = "web_search_requests"
RESPONSES_MARK = b'"web_search_call"'
GEMINI_MARKS = (b'"webSearchQueries"', b'"web_search_queries"')


def search_units(raw: JSONObject, name: str = NOTED) -> Units:
    """What an object says of searches, as units. Raises MalformedUsageError for what is no count."""
    searches = count(raw, name)
    return (("search", searches),) if searches else ()


def noted(raw: Any, searches: int) -> JSONObject | None:
    """A usage object with the number of searches in it; None: there is no usage."""
    if not isinstance(raw, dict):
        return None
    return {**raw, NOTED: searches} if searches else raw


def searches_of_response(answer: JSONObject) -> int:
    """Searches among the items of one of OpenAI's responses; looking at what was found costs nothing."""
    output = answer.get("output")
    return sum(map(_is_search, output)) if isinstance(output, list) else 0


def _is_search(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") != "web_search_call":
        return False
    action = item.get("action")
    return not isinstance(action, dict) or action.get("type", "search") == "search"


def searches_of_gemini(answer: JSONObject) -> int:
    """Queries that grounding asked of Google, over all candidates."""
    candidates = answer.get("candidates")
    return sum(map(_queries, candidates)) if isinstance(candidates, list) else 0


def _queries(candidate: Any) -> int:
    grounding = plain_names(candidate).get("groundingMetadata") if isinstance(candidate, dict) else None
    queries = plain_names(grounding).get("webSearchQueries") if isinstance(grounding, dict) else None
    return len(queries) if isinstance(queries, list) else 0
