"""The built-in fake provider (`python -m providers.fake_server`), for demos, tests and benchmarks. Speaks OpenAI's protocol."""

from __future__ import annotations

from providers.adapters._openai_compatible import OpenAICompatible


class Fake(OpenAICompatible):
    name = "fake"
