"""Perplexity: https://docs.perplexity.ai/api-reference. Every answer searches the web, which is billed by request."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects._searches import search_units
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import JSONObject, Operation, Usage


class Perplexity(OpenAICompatible):
    name = "perplexity"
    base_url = "https://api.perplexity.ai"
    extensions = frozenset({"top_k"})
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT})
    chat_output_caps = ("max_tokens",)
    reported_cost_field = "cost"
    # What its searches bring in is counted as input of some models.
    hidden_input_tokens = 200_000

    def usage(self, raw: JSONObject, dialect: Dialect) -> Usage:
        usage = super().usage(raw, dialect)
        return msgspec.structs.replace(usage, units=search_units(raw, "num_search_queries"))

    def reported_cost_usd(self, raw: JSONObject) -> str | None:
        cost = raw.get("cost")
        return super().reported_cost_usd({"cost": cost.get("total_cost")}) if isinstance(cost, dict) else None

    def searches_unasked(self, model: str) -> bool:
        return True
