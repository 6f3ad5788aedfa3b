"""Charges for the results of batches: the call that gets them first pays, whoever else does so meanwhile or later."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from llmgateway.pipeline.batch_results import Bill, bill_of, merged
from llmgateway.pipeline.call import Call
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import ObjectBook, Owner
from providers.adapters.dialects._multipart import Form
from providers.adapters.errors import MalformedBodyError

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_HIDDEN_NAME = re.compile(rb'"[^"\n]{0,40}\\u[^"\n]{0,40}"\s*:')
"""JSON can write any letter of a field's name as an escape."""
_PARTS = frozenset({b"range", b"if-range"})


class Results(NamedTuple):
    """What somebody has asked for, and what may be the results of a batch."""

    object_id: str
    """That of what holds them, as it is in the book: they are charged for by it."""
    content: bytes | Sequence[bytes | msgspec.Raw]
    model: str = ""
    """The batch's, as far as it is known: not every answer names its own."""


async def charge(call: Call, results: Sequence[Results], *, gateway: Gateway, book: ObjectBook, mine: Owner) -> None:
    """Book on `call` what nobody has paid for yet.

    Raises:
        LedgerUnavailableError: nobody can tell who pays, so that nothing may be handed out.
    """
    now = gateway.clock.time()
    deployments = [each for each in gateway.snapshot.deployments if each.provider == mine.provider]
    bills: list[Bill] = []
    try:
        for each in results:
            bill = await asyncio.to_thread(bill_of, each.content, deployments, now=now, model=each.model)
            if bill is None:
                continue
            claiming = asyncio.ensure_future(book.claim(each.object_id, mine, request_id=call.request.id, now=now))
            try:
                claimed = await asyncio.shield(claiming)
            except asyncio.CancelledError:
                # The claim may stand although nobody waits for it: then it is this call that pays.
                if await claiming:
                    bills.append(bill)
                raise
            if claimed:
                bills.append(bill)
    finally:
        if total := merged(bills):
            call.outcome = total.metered
            call.progress.deployment = total.deployment or call.progress.deployment
            call.progress.price = total.price


def for_all_of_it(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without those that ask for a part: it would be charged for as if it were all."""
    return [header for header in headers if header[0] not in _PARTS]


def model_of_requests(upload: bytes) -> str:
    """The one model that all requests of a file name which is uploaded for a batch; empty: there is no such."""
    try:
        purpose = Form(upload).values().get("purpose")
    except MalformedBodyError:
        return ""
    if purpose != "batch" or _HIDDEN_NAME.search(upload):
        return ""
    named = set(_MODEL.findall(upload))
    return named.pop().decode("utf-8", "replace") if len(named) == 1 else ""
