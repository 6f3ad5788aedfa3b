"""The built-in fake provider (`python -m providers.fake_server`), for demos, tests and benchmarks. Speaks OpenAI's protocol."""

from __future__ import annotations

from providers.adapters._openai_compatible import KEPT, MEDIA, OpenAICompatible
from providers.adapters.types import Operation


class Fake(OpenAICompatible):
    name = "fake"
    keeps = KEPT
    operations = OpenAICompatible.operations | MEDIA | {Operation.REALTIME, Operation.MODERATION, Operation.RERANK}
