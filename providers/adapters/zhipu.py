"""Zhipu (GLM): https://docs.bigmodel.cn. Keys are sent as they are; the older signed tokens are not needed."""

from __future__ import annotations

from typing import ClassVar

from providers.adapters._openai_compatible import OpenAICompatible
from providers.adapters.types import ErrorKind, Operation


class Zhipu(OpenAICompatible):
    name = "zhipu"
    base_url = "https://open.bigmodel.cn/api/paas/v4"
    operations: ClassVar[frozenset[Operation]] = frozenset({Operation.CHAT, Operation.EMBEDDINGS})
    api_key_variables = ("GLM_API_KEY",)
    # https://docs.bigmodel.cn/cn/api/api-code: out of money, prompt too long, unsafe content.
    error_codes: ClassVar[dict[str, ErrorKind]] = {
        "1113": ErrorKind.QUOTA_EXHAUSTED,
        "1261": ErrorKind.CONTEXT_TOO_LONG,
        "1301": ErrorKind.CONTENT_POLICY,
    }
    chat_output_caps = ("max_tokens",)
