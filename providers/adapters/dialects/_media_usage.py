"""Usage of images and sound: tokens by kind, seconds as milliseconds."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from providers.adapters.dialects._openai_wire import MAX_COUNT, count, member
from providers.adapters.errors import MalformedUsageError
from providers.adapters.types import JSONObject, Units, Usage


def read_tokens(raw: JSONObject, units: Units = ()) -> Usage:
    """OpenAI's `input_tokens` and `output_tokens`, with what of them was sound or images.

    Raises:
        MalformedUsageError: it is not an object of numbers.
    """
    input_tokens, output = count(raw, "input_tokens"), count(raw, "output_tokens")
    # Both spellings are in use.
    details = member(raw, "input_tokens_details") or member(raw, "input_token_details")
    audio, images = count(details, "audio_tokens"), count(details, "image_tokens")
    drawn = count(member(raw, "output_tokens_details"), "image_tokens")
    if audio + images > input_tokens or drawn > output:
        return Usage(input=input_tokens, output=output, consistent=False, units=units)
    if drawn:
        # Also among `output`, for whether they have a price of their own is known to the price alone.
        units = (*units, ("image_token", drawn))
    return Usage(input=input_tokens - audio - images, audio_input=audio, image_input=images, output=output, units=units)


def milliseconds(seconds: Any) -> int:
    """Raises MalformedUsageError for what is no length of sound."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float, str)):
        raise MalformedUsageError(f"{seconds!r} is no number of seconds")
    try:
        amount = Decimal(str(seconds)) * 1000
    except InvalidOperation:
        raise MalformedUsageError(f"{seconds!r} is no number of seconds") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_COUNT:
        raise MalformedUsageError(f"{seconds!r} is no number of seconds")
    return int(amount.to_integral_value())
