"""Any server that speaks OpenAI's protocol: vLLM, TGI, Ollama, llama.cpp, LM Studio, a gateway of someone else."""

from __future__ import annotations

from providers.adapters._openai_compatible import KEPT, MEDIA, OpenAICompatible
from providers.adapters.types import Operation


class GenericOpenAICompatible(OpenAICompatible):
    name = "openai_compatible"
    base_url = ""
    keeps = KEPT
    operations = OpenAICompatible.operations | MEDIA | {Operation.REALTIME, Operation.MODERATION, Operation.RERANK}
