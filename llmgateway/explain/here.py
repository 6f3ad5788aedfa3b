"""Asks the gateway of this process, from a thread of Django's."""

from __future__ import annotations

import asyncio

from llmgateway import wiring
from llmgateway.conf import Conf
from llmgateway.explain.question import Question
from llmgateway.explain.rehearsal import Rehearsal
from llmgateway.explain.telling import told
from llmgateway.pipeline.gateway import Gateway
from providers.adapters.types import JSONObject

ANSWER_S = 10.0


class NotServingError(Exception):
    """There is no data plane in this process, or it does not answer."""


async def explain(gateway: Gateway, conf: Conf, question: Question) -> JSONObject:
    """On the gateway's event loop."""
    rehearsal = Rehearsal(gateway, conf, question)
    await rehearsal.run()
    return told(rehearsal)


def explain_here(question: Question) -> JSONObject:
    """Raises NotServingError."""
    runtime = wiring.current()
    if runtime is None:
        raise NotServingError("This process serves no requests. Ask the server that `./gateway serve` runs.")
    asked = asyncio.run_coroutine_threadsafe(explain(runtime.gateway, runtime.conf, question), runtime.loop)
    try:
        return asked.result(ANSWER_S)
    except TimeoutError:
        asked.cancel()
        raise NotServingError(f"The gateway did not answer within {ANSWER_S:g} s. Try again in a moment.") from None
