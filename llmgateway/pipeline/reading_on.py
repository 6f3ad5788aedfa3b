"""Streams whose clients have left, read on to learn exactly what they used, where a deployment asks for that.

Otherwise a stream that is given up is estimated. Reading on lets the provider work for nobody, so it ends after a
while, and before the answer costs more than its request holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from llmgateway.http import httpx
from llmgateway.pipeline.call import Call
from providers.adapters.dialects.base import StreamScanner
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.errors import MalformedAnswerError

logger = logging.getLogger(__name__)


class Unbroken:
    """The pieces of a stream, of which none is lost when the one who waits for it is cancelled."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._coming: asyncio.Future[bytes] | None = None

    def __aiter__(self) -> Unbroken:
        return self

    async def __anext__(self) -> bytes:
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._next())
        piece = await asyncio.shield(self._coming)
        self._coming = None
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes:
        return await anext(self._pieces, b"")

    async def aclose(self) -> None:
        """Nobody waits any more."""
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


class ReadingOn:
    """The streams of one process that are read for nobody. Used from the event loop alone."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def take(self, call: Call, scanner: StreamScanner, rest: Unbroken, stream: httpx.AsyncByteStream) -> None:
        """From now on the call is settled here, and its connection closed."""
        task = asyncio.create_task(_read(call, scanner, rest, stream))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        """The process ends: what has been learnt so far must do."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _read(call: Call, scanner: StreamScanner, rest: Unbroken, stream: httpx.AsyncByteStream) -> None:
    deployment = call.progress.deployment
    if deployment is None:
        raise RuntimeError("only an attempt brings a stream")
    chars_per_token = deployment.estimation.chars_per_token
    try:
        async with asyncio.timeout(deployment.drain_s):
            async for piece in rest:
                scanner.feed(piece)
                if scanner.done or scanner.estimated_output(chars_per_token) > call.affordable_output:
                    break
            else:
                scanner.finish()
    except (TimeoutError, httpx.TransportError, MalformedAnswerError) as error:
        logger.info("a stream could not be read to its end after its client left", extra={"cause": repr(error)})
    finally:
        try:
            call.meter(
                scanner.usage_raw,
                output_estimate=scanner.estimated_output(chars_per_token),
                response_model=scanner.response_model,
                begun=begun_usage(scanner),
            )
            call.settle("cancelled", error_type="client_left")
        finally:
            await rest.aclose()
            await stream.aclose()
