"""What aliases set in the requests that they are asked: defaults and overrides, in the words of the caller's dialect.

docs/routing.md says which words there are. Which request goes where is decided before this; here it is only rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.requests import ModelRequest
from llmgateway.pipeline.snapshot import Alias
from providers.adapters.body import RequestHead
from providers.adapters.dialects.base import Dialect
from providers.adapters.errors import MalformedBodyError
from providers.adapters.types import Operation


def with_parameters(request: ModelRequest, aliases: Iterable[Alias]) -> ModelRequest:
    """`request` as it is asked through `aliases`, one after the other; the same object if they set nothing.

    Raises:
        BadRequestError: what one of them sets does not fit the request.
    """
    for alias in aliases:
        if alias.parameters is not None:
            request = _changed(request, alias)
    return request


def as_each_gets_it(request: ModelRequest, via: Mapping[int, tuple[Alias, ...]]) -> dict[int, ModelRequest]:
    """By id of a deployment, the request where the aliases on its way change it.

    Raises:
        BadRequestError: as `with_parameters`.
    """
    known: dict[tuple[int, ...], ModelRequest] = {}
    found: dict[int, ModelRequest] = {}
    for number, aliases in via.items():
        setting = tuple([alias for alias in aliases if alias.parameters is not None])
        if not setting:
            continue
        # Many deployments are reached by the same way, and a body can be long.
        way = tuple([id(alias) for alias in setting])
        asked = known.get(way)
        if asked is None:
            asked = known[way] = with_parameters(request, setting)
        if asked is not request:
            found[number] = asked
    return found


def _changed(request: ModelRequest, alias: Alias) -> ModelRequest:
    parameters, dialect = alias.parameters, request.dialect
    if parameters is None or not request.body or not _can_be_set(dialect):
        return request
    try:
        body = dialect.with_parameters(request.body, parameters.defaults, parameters.overrides)
        if body is request.body:
            return request
        head = _head(request, body)
    except MalformedBodyError as error:
        raise BadRequestError(
            f"What the model '{alias.name}' sets does not fit this request: {error.message} "
            "Ask an admin to correct its parameters.",
            param=error.param or None,
        ) from None
    return msgspec.structs.replace(request, body=body, head=head)


def _can_be_set(dialect: Dialect) -> bool:
    """Forms, and calls that nobody here understands, go on as they are."""
    return dialect.json_requests and dialect.operation is not Operation.PASSTHROUGH


def _head(request: ModelRequest, body: bytes) -> RequestHead:
    dialect = request.dialect
    try:
        return dialect.read_head(body)
    except MalformedBodyError:  # It is the path that names the model.
        return dialect.read_head(body, model=request.head.model, stream=request.head.stream)
