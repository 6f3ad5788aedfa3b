"""xAI (Grok): https://docs.x.ai/docs/api-reference. Reasoning tokens come on top of `completion_tokens`."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

import msgspec

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.dialects._openai_wire import count, member
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import ErrorKind, JSONObject, Operation, Usage


class XAI(OpenAICompatible):
    name = "xai"
    trial_model = "grok-4.5"
    base_url = "https://api.x.ai/v1"
    provider_name = "x_ai"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.IMAGE_GENERATION})
    lacks = frozenset({"openai.image_variations"})
    api_key_variables = ("XAI_API_KEY", "GROK_API_KEY")
    speaks_responses = True
    # Ten thousand million of them are a dollar: https://docs.x.ai/developers/cost-tracking.
    reported_cost_field = "cost_in_usd_ticks"

    def usage(self, raw: JSONObject, dialect: Dialect) -> Usage:
        usage, tools = super().usage(raw, dialect), member(raw, "server_side_tool_usage_details")
        searches = count(tools, "web_search_calls") + count(tools, "x_search_calls")
        return msgspec.structs.replace(usage, units=(("search", searches),)) if searches else usage

    def reported_cost_usd(self, raw: JSONObject) -> str | None:
        ticks = super().reported_cost_usd(raw)
        return None if ticks is None else str(Decimal(ticks).scaleb(-10))

    def error_kind(self, status: int, body: JSONObject | None) -> ErrorKind:
        # A wrong key is a 400 here, and the error is plain text.
        if status == 400 and "Incorrect API key" in str(body):
            return ErrorKind.AUTHENTICATION
        # So is what it will not answer, a 403 of the same code that credentials without a right have.
        if status == 403 and "violates usage guidelines" in str(body):
            return ErrorKind.CONTENT_POLICY
        return super().error_kind(status, body)
