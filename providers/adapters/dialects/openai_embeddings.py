"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters.dialects._openai_wire import OpenAIWire
from providers.adapters.types import Operation


class OpenAIEmbeddings(OpenAIWire):
    name = "openai.embeddings"
    operation: ClassVar[Operation] = Operation.EMBEDDINGS
