"""Usage that a provider tells before its answer is complete: exact for the input, and nothing yet for the output."""

from __future__ import annotations

from providers.adapters.types import JSONObject


def begun_usage(stream: object) -> JSONObject | None:
    """What a scanner or a reader of a stream knows by now; None: nothing, as in most dialects until the end."""
    begun = getattr(stream, "begun_usage_raw", None)
    return begun if isinstance(begun, dict) else None
