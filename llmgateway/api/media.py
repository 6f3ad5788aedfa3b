"""Images, sound, moderation and reranking, in the forms of OpenAI and of those who rerank."""

from __future__ import annotations

from llmgateway.api.calls import call_model
from llmgateway.api.routes import CALL, Route
from providers.adapters.dialects.registry import get_dialect

_DIALECTS = {
    "/v1/images/generations": "openai.images",
    "/v1/images/edits": "openai.image_edits",
    "/v1/images/variations": "openai.image_variations",
    "/v1/audio/speech": "openai.speech",
    "/v1/audio/transcriptions": "openai.transcriptions",
    "/v1/audio/translations": "openai.audio_translations",
    "/v1/moderations": "openai.moderations",
    "/v1/rerank": "common.rerank",
    "/v2/rerank": "common.rerank",
}


def routes() -> dict[str, Route]:
    """The paths that are the same for everybody."""
    return {path: Route(CALL, call_model, get_dialect(name), path) for path, name in _DIALECTS.items()}
