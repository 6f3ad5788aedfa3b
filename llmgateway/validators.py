"""Checks of single values, shared by models, forms, the import and the API. Each message says what to write instead."""

from __future__ import annotations

import ipaddress
import math
import re
import zoneinfo
from collections.abc import Iterable

from django.core.exceptions import ValidationError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")


def validate_name(value: str) -> None:
    """Letters, digits and `. _ : @ / + -`, starting with a letter or digit (`gpt-4o-mini`, `meta/llama-3`)."""
    if not NAME_PATTERN.fullmatch(value):
        raise ValidationError(
            "%(value)s is not a usable name: start with a letter or digit, then letters, digits and . _ : @ / + - only.",
            code="invalid_name",
            params={"value": value},
        )


def validate_time_zone(value: str) -> None:
    if value not in zoneinfo.available_timezones():
        raise ValidationError(
            "%(value)s is not a time zone; write one such as Europe/Berlin or UTC.",
            code="invalid_time_zone",
            params={"value": value},
        )


def validate_networks(values: Iterable[object]) -> None:
    """Each value must be an IPv4 or IPv6 address or network without host bits."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValidationError("Write a list of addresses or networks.", code="invalid_networks")
    errors = [error for error in map(_network_error, values) if error]
    if errors:
        raise ValidationError(errors)


def _network_error(value: object) -> ValidationError | None:
    try:
        ipaddress.ip_network(str(value))
    except ValueError as error:
        return ValidationError(
            "%(value)s is not an address or network (%(reason)s); write one such as 192.0.2.7 or 2001:db8::/32.",
            code="invalid_network",
            params={"value": value, "reason": error},
        )
    return None


def validate_names(values: Iterable[object]) -> None:
    """A list of names, as in a key's models."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValidationError("Write a list of names.", code="invalid_names")
    for value in values:
        validate_name(str(value))


def validate_shares(value: object) -> None:
    """Characters per token by name: `{"openai": 5}`."""
    if not isinstance(value, dict):
        raise ValidationError('Write names with a number each, such as {"openai": 5}.', code="invalid_shares")
    for name, number in value.items():
        validate_name(str(name))
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0.1 <= number <= 1000:
            raise ValidationError(
                "%(name)s: write a number from 0.1 to 1000.", code="invalid_shares", params={"name": name}
            )


def validate_percents(values: object) -> None:
    """Whole percents of a budget at which somebody is told, each once: `[50, 80, 100]`."""
    if not isinstance(values, list):
        raise ValidationError("Write a list of percents, such as 50, 80, 100.", code="invalid_percents")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
            raise ValidationError(
                "%(value)s is not a whole percent from 1 to 1000.", code="invalid_percents", params={"value": value}
            )
    if len(set(values)) != len(values):
        raise ValidationError("A percent stands there twice; leave one out.", code="invalid_percents")


def validate_finite(value: float) -> None:
    """Neither infinite nor `nan`, which is not smaller than any bound and not larger either."""
    if not math.isfinite(value):
        raise ValidationError("Write a number.", code="not_finite")


def validate_alias_names(value: object) -> None:
    """Names of aliases by name: `{"openai": "gpt-4o-mini"}`."""
    if not isinstance(value, dict):
        raise ValidationError(
            'Write names with an alias each, such as {"openai": "gpt-4o-mini"}.', code="invalid_names"
        )
    for name, alias in value.items():
        validate_name(str(name))
        if not isinstance(alias, str):
            raise ValidationError("%(name)s: write the name of an alias.", code="invalid_names", params={"name": name})
        validate_name(alias)
