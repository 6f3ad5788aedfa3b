"""Callers' own keys at providers that come beside a key of the gateway: whose they are, and where they are of use."""

from __future__ import annotations

from llmgateway.api.inbound import Inbound
from llmgateway.pipeline.errors import BadRequestError
from llmgateway.pipeline.foreign_keys import KEY_HEADER, PROVIDER_HEADER, other_provider
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.snapshot import Key


async def with_own_key(gateway: Gateway, inbound: Inbound, key: Key, at: str) -> Key:
    """`key` with the one of its own that the caller sent. `at`: the provider where the call goes, if the path says so.

    Raises:
        BadRequestError: it is not said whose key it is, or it is another provider's.
        PermissionDeniedError: the team may bring none, or this one is banned.
    """
    provider = inbound.provider or at or own_provider(inbound)
    if at and provider != at:
        raise BadRequestError(other_provider(provider, at), param=PROVIDER_HEADER)
    if not any(each.provider == provider for each in gateway.snapshot.deployments):
        raise BadRequestError(
            f"There is no provider '{provider}' here. Name in `{PROVIDER_HEADER}` whose key you sent, as the first part of "
            "the provider's paths has it.",
            param=PROVIDER_HEADER,
        )
    return await gateway.with_own_key(key, inbound.provider_key, provider)


def own_provider(inbound: Inbound) -> str:
    """Whose key the caller sent; empty: none was sent. Raises BadRequestError: it is not said whose."""
    if not inbound.provider_key:
        return ""
    if not inbound.provider:
        raise BadRequestError(
            f"Say in `{PROVIDER_HEADER}` which provider the key in `{KEY_HEADER}` is for. It is sent to no other.",
            param=PROVIDER_HEADER,
        )
    return inbound.provider


def refuse_own_key(inbound: Inbound) -> None:
    """Raises BadRequestError: the caller sent one, and what is asked here would be paid with the gateway's credential."""
    if inbound.provider_key:
        raise BadRequestError(
            f"This path takes no key of a provider. Leave out `{KEY_HEADER}` to use the gateway's credential, or call a "
            "path that speaks the provider's protocol, such as /v1/chat/completions.",
            param=KEY_HEADER,
        )
