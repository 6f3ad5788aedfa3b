"""From the body of a simple question to a request that the pipeline takes."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from llmgateway.api.calls import parse_head
from llmgateway.api.exchange import HttpExchange
from llmgateway.api.inbound import read_body, requested_timeout_s, require_json
from llmgateway.api.model_choice import CHAT, Choice
from llmgateway.api.own_keys import refuse_own_key
from llmgateway.api.query_fields import Download, Estimate, GatewayQuery, ParallelQuery, Query, read_fields
from llmgateway.pipeline.errors import PermissionDeniedError
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Key

Fields = TypeVar("Fields", Query, GatewayQuery, Estimate, ParallelQuery, Download)


class Question(Protocol):
    """What all questions have in common."""

    @property
    def query(self) -> str | None: ...

    @property
    def task_type(self) -> str | None: ...


async def fields_of(gateway: Gateway, exchange: HttpExchange, kind: type[Fields]) -> tuple[Key, Fields]:
    """Who asks, and what.

    Raises:
        GatewayError: the key may not be used, the body did not come, or a field is not usable; `param` names it.
    """
    inbound = exchange.inbound
    refuse_own_key(inbound)
    key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
    exchange.authenticated = gateway.clock.monotonic()
    require_json(inbound)
    limit = gateway.snapshot.request_body_limit
    body = await read_body(exchange.receive, inbound, limit, timeout_s=exchange.body_timeout_s)
    if inbound.body is None:
        # It came in pieces, as slowly as the caller liked: what the key may do can have changed meanwhile.
        key = exchange.key = await gateway.authenticate(inbound.secret, client_ip=exchange.client_ip)
    fields = read_fields(body, kind)
    fields.check()
    if isinstance(fields, (Query, ParallelQuery)) and fields.request_id:
        inbound.client_request_id = fields.request_id
    return key, fields


def acting_for(key: Key, tenant: str | None) -> Key:
    """`key` as it acts for the team called `tenant`; as it is, if none is named.

    Raises:
        PermissionDeniedError: it may not.
    """
    if not tenant:
        return key
    found = key.acting_for(tenant)
    if found is None:
        raise PermissionDeniedError(
            f"API key '{key.name}' may not act for the team '{tenant}'. Ask an admin to allow it.",
            code="tenant_not_allowed",
            param="tenant",
        )
    return found


def question(exchange: HttpExchange, choice: Choice, fields: Question) -> ModelRequest:
    """`fields` as a chat of one message."""
    body = {"model": choice.model, "messages": [{"role": "user", "content": fields.query or ""}]}
    cap = getattr(fields, "max_tokens", None)
    content = msgspec.json.encode(body if cap is None else {**body, "max_tokens": cap})
    inbound = exchange.inbound
    return ModelRequest(
        id=exchange.request_id,
        path=exchange.label,
        dialect=CHAT,
        body=content,
        head=parse_head(CHAT, content),
        headers=inbound.forwarded,
        client_ip=exchange.client_ip,
        client_request_id=inbound.client_request_id,
        end_user=inbound.end_user,
        started_at=exchange.started_at,
        received=exchange.received,
        authenticated=exchange.authenticated,
        provider=choice.provider,
        timeout_s=_shortest(getattr(fields, "timeout", None), requested_timeout_s(inbound)),
        cache=inbound.cache,
        bypass_health=inbound.bypass_health,
        session=inbound.session,
        task_type=fields.task_type or inbound.task_type,
    )


def _shortest(*times_s: float | None) -> float | None:
    return min([each for each in times_s if each is not None], default=None)
