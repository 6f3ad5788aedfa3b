"""What OpenAI's images say that they used."""

from __future__ import annotations

import json

from providers.adapters.dialects.registry import get_dialect
from providers.adapters.types import Usage

IMAGES = get_dialect("openai.images")
RAW = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 1300,
    "output_tokens_details": {"text_tokens": 40, "image_tokens": 1260},
}


def test_tokens_of_images_are_known_as_such_beside_the_images_themselves() -> None:
    answer = json.dumps({"data": [{"b64_json": ""}], "usage": RAW}).encode()
    raw, _ = IMAGES.answer_usage(answer)
    assert raw is not None

    usage = IMAGES.usage(raw)
    used = IMAGES.used_units((("image:high", 1),), usage.units)

    assert usage == Usage(input=10, image_input=40, output=1300, units=(("image", 1), ("image_token", 1260)))
    assert used == (("image:high", 1), ("image_token", 1260))


def test_more_tokens_of_images_than_there_are_is_flagged() -> None:
    usage = IMAGES.usage({**RAW, "output_tokens": 5})

    assert usage == Usage(input=50, output=5, consistent=False)
