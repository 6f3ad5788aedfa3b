"""Questions that mean the same: the last thing a user says, as a vector, within conversations that are the same before it.

The vector comes from the alias that the operator names, through the gateway's own pipeline: admitted, in the ledger and
billed to the caller's key. Whatever fails here is a miss.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from llmgateway.pipeline.cache_keys import digest_of, is_convertible
from llmgateway.pipeline.cached_answers import Nearest, VectorStore
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.recorder import Nobody, Recorder
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.route_rules import CacheRule
from providers.adapters.dialects.conversation import Conversation, Text, Turn
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedAnswerError, MalformedBodyError

if TYPE_CHECKING:
    from llmgateway.pipeline.call import Call
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.hits import Visit

logger = logging.getLogger(__name__)

EMBEDDING_S = 3.0
"""How long a vector may take; a question without one is asked."""
LONGEST_QUESTION = 8_000
"""Characters. A longer text is no question that somebody else puts in other words."""
_DIALECT = get_dialect("openai.embeddings")
_PATH = "/v1/embeddings"


class Question(msgspec.Struct, frozen=True):
    """What is asked last, and everything else that must be the same."""

    group: bytes
    """Digest of tenant, model, parameters and all that was said before."""
    vector: tuple[float, ...]
    """Of length 1."""


class SimilarQuestions:
    """One per process."""

    def __init__(self, gateway: Gateway, vectors: VectorStore) -> None:
        self._gateway = gateway
        self._vectors = vectors

    async def question(self, visit: Visit, rule: CacheRule, scope: list[Any]) -> Question | None:
        """None: it is no question in words, or there is no vector for it now."""
        request = visit.request
        if not is_convertible(request) or not rule.embeddings:
            return None
        try:
            asked = request.dialect.read_request(request.body, model=request.head.model, stream=request.head.stream)
        except MalformedBodyError:
            return None
        text = _last_said(asked)
        if not text or len(text) > LONGEST_QUESTION:
            return None
        before = msgspec.structs.replace(
            asked, turns=(*asked.turns[:-1], Turn("user", ())), model="", stream=False, include_usage=False, user=""
        )
        vector = await self._vector(visit, rule.embeddings, text)
        if vector is None:
            return None
        return Question(digest_of(scope, [rule.embeddings, msgspec.to_builtins(before)]), vector)

    async def nearest(self, question: Question, similarity: float) -> Nearest | None:
        return await self._vectors.nearest(question.group, question.vector, similarity=similarity)

    def remember(self, question: Question, digest: bytes, ttl_s: float) -> None:
        self._vectors.add(question.group, question.vector, digest, ttl_s)

    async def _vector(self, visit: Visit, alias: str, text: str) -> tuple[float, ...] | None:
        gateway = self._gateway
        now = gateway.clock.monotonic()
        body = msgspec.json.encode({"model": alias, "input": text, "encoding_format": "float"})
        request = ModelRequest(
            id=f"{visit.request.id}_vec",
            path=_PATH,
            dialect=_DIALECT,
            body=body,
            head=_DIALECT.read_head(body),
            headers=(),
            client_ip=visit.request.client_ip,
            client_request_id=visit.request.client_request_id,
            end_user=visit.request.end_user,
            started_at=gateway.clock.time(),
            received=now,
            authenticated=now,
        )
        recorder = Recorder(Nobody())
        try:
            await gateway.ask(request, visit.key, recorder, visit.presence, began=_hurried)
        except GatewayError as error:
            logger.info("no vector for a question from '%s': %s", alias, error.message)
            return None
        return _unit(recorder.body) if recorder.status == 200 and recorder.body else None


def _hurried(call: Call) -> None:
    call.exchange.deadline = min(call.exchange.deadline, call.now() + EMBEDDING_S)


def _last_said(asked: Conversation) -> str:
    """The user's last words; empty where a conversation ends in anything else."""
    if not asked.turns or asked.turns[-1].role != "user":
        return ""
    blocks = asked.turns[-1].blocks
    if not all(isinstance(block, Text) for block in blocks):
        return ""
    return "\n".join([block.text for block in blocks if isinstance(block, Text)]).strip()


def _unit(answer: bytes) -> tuple[float, ...] | None:
    """The vector of an answer, at length 1."""
    try:
        reply = _DIALECT.read_reply(answer)
    except MalformedAnswerError:
        return None
    vectors: Sequence[Sequence[float]] = getattr(reply, "vectors", ())
    if len(vectors) != 1:
        return None
    length = math.hypot(*vectors[0])
    if not length or not math.isfinite(length):
        return None
    return tuple([number / length for number in vectors[0]])
