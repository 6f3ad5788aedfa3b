"""Checks of provider configuration: adapters that exist, addresses that may be called, secrets that can be read."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from urllib.parse import parse_qs, urlsplit

from django.core.exceptions import ValidationError

from providers.adapters.addresses import RESERVED_NAMES
from providers.adapters.registry import adapter_names, get_adapter


def validate_adapter(value: str) -> None:
    if value not in adapter_names():
        raise ValidationError(
            "There is no adapter named %(value)s; choose one of %(names)s.",
            code="unknown_adapter",
            params={"value": value, "names": ", ".join(sorted(adapter_names()))},
        )


def validate_provider_name(value: str) -> None:
    """A provider's name becomes the first segment of its native path, so it may not be one of ours."""
    if value.lower() in RESERVED_NAMES:
        raise ValidationError(
            "%(value)s is the first segment of one of the gateway's own paths; choose another name.",
            code="reserved_name",
            params={"value": value},
        )


def validate_credential_secret(value: str) -> None:
    """A reference must name something; control characters would break the header the key is sent in."""
    kind, colon, rest = value.partition(":")
    if colon and kind in {"env", "file"} and not rest.strip():
        raise ValidationError(f"Write what `{kind}:` refers to, such as env:OPENAI_API_KEY or file:/run/secrets/key.")
    if re.search(r"[\x00-\x20\x7f]", value):
        raise ValidationError("A key has no spaces or line breaks; paste it again.")


def validate_base_url(adapter: str, base_url: str, *, allow_private: bool) -> None:
    """The address must be http(s) and, unless allowed, not on this machine or a private network."""
    validate_adapter(adapter)
    url = base_url or get_adapter(adapter).base_url
    if not url:
        raise ValidationError({"base_url": f"The adapter {adapter} has no address of its own; write one."})
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValidationError({"base_url": f"{url} is not an http:// or https:// address."})
    parameters = get_adapter(adapter).base_url_parameters
    if parts.username or parts.fragment or not set(parse_qs(parts.query, keep_blank_values=True)) <= parameters:
        raise ValidationError(
            {"base_url": "Leave user, query and fragment out of the address; keys belong in a credential."}
        )
    if not allow_private and is_private_host(parts.hostname):
        raise ValidationError(
            {"base_url": f"{parts.hostname} is on a private network; tick “allow private network” if that is intended."}
        )


def is_private_host(host: str) -> bool:
    """Whether `host` is, or resolves to, an address that is not public. A name that does not resolve is not private."""
    try:
        addresses = [ipaddress.ip_address(host.strip("[]"))]
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
        except OSError:
            return host == "localhost" or host.endswith((".local", ".internal", ".localhost"))
        addresses = [ipaddress.ip_address(item[4][0]) for item in found]
    return any(not address.is_global for address in addresses)


MODALITIES = ("text", "image", "audio", "video", "file", "embedding")


def validate_modalities(values: object) -> None:
    """A list of kinds of content, each once."""
    if not isinstance(values, list) or any(value not in MODALITIES for value in values):
        raise ValidationError(f"Write a list of {', '.join(MODALITIES)}.", code="invalid_modalities")
    if len(set(values)) != len(values):
        raise ValidationError("Name each kind once.", code="invalid_modalities")


DECIDED_ELSEWHERE = frozenset({"model", "stream", "stream_options", "messages", "input", "prompt", "system"})
"""Fields of a request that no alias sets: routing and the caller decide them."""


MOST_OF_PARAMETERS = 20_000


def validate_parameters(value: object) -> None:
    """Fields of request bodies with their values: `{"temperature": 0.2}`."""
    if not isinstance(value, dict):
        raise ValidationError(
            'Write fields with their values, such as {"temperature": 0.2}.', code="invalid_parameters"
        )
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValidationError("There is a value that JSON does not know.", code="invalid_parameters") from None
    if "\\u0000" in text or len(text) > MOST_OF_PARAMETERS:
        raise ValidationError(
            "Fields and values have at most %(most)s characters together, and no NUL among them.",
            code="invalid_parameters",
            params={"most": MOST_OF_PARAMETERS},
        )
    for name in DECIDED_ELSEWHERE.intersection(value):
        raise ValidationError(
            "%(name)s cannot be set here: the caller and the targets decide it. Leave it out.",
            code="invalid_parameters",
            params={"name": name},
        )


def validate_probe_path(value: str) -> None:
    """The rest of an address, from the slash on."""
    if not re.fullmatch(r"/[\x21-\x7e]*", value) or "#" in value or value.startswith("//"):
        raise ValidationError(
            "%(value)s is not an address below the base URL; write one such as /models.",
            code="invalid_path",
            params={"value": value},
        )
