"""Settings from the environment: what is taken, and what an unusable value is told."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from llmgateway.conf import Conf


@pytest.mark.parametrize(
    ("name", "attribute", "text", "value"),
    [
        ("PORT", "port", " 8080 ", 8080),
        ("TRUSTED_PROXIES", "trusted_proxies", "10.0.0.0/8, 2001:db8::1", ["10.0.0.0/8", "2001:db8::1"]),
        ("METRICS_ACCESS", "metrics_access", "loopback,192.0.2.7", ["loopback", "192.0.2.7"]),
        ("METRICS_ACCESS", "metrics_access", "open", ["open"]),
        ("BACKOFF_FACTOR", "backoff_factor", "1.5", 1.5),
        ("JITTER", "jitter", "Full", 1.0),
        ("JITTER", "jitter", "0.25", 0.25),
    ],
)
def test_a_usable_value_is_read(name: str, attribute: str, text: str, value: object) -> None:
    assert getattr(Conf({name: text}), attribute) == value


@pytest.mark.parametrize(
    ("name", "attribute", "text", "reason"),
    [
        ("PORT", "port", "http", "expected a whole number"),
        ("PORT", "port", "65536", "expected a port between 1 and 65535"),
        ("JOURNAL_MAX_MB", "journal_max_mb", "-1", "expected a number of at least 0"),
        ("TRUSTED_PROXIES", "trusted_proxies", "10.0.0.0/8,nginx", "'nginx' does not appear to be an IPv4 or IPv6"),
        ("TRUSTED_PROXIES", "trusted_proxies", "loopback", "'loopback' does not appear to be"),
        ("TIME_ZONE", "time_zone", "Mars/Olympus", "expected a time zone such as Europe/Berlin"),
        ("METRICS_ACCESS", "metrics_access", "10.0.0.1/8", "has host bits set"),
        ("BACKOFF_FACTOR", "backoff_factor", "0.5", "expected a number from 1 to 10"),
        ("BACKOFF_FACTOR", "backoff_factor", "nan", "expected a number from 1 to 10"),
        ("JITTER", "jitter", "half", "expected `full`, or a fraction from 0 to 1"),
    ],
)
def test_an_unusable_value_is_told_by_name_before_anything_starts(
    name: str, attribute: str, text: str, reason: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=reason) as raised:
        getattr(Conf({name: text}), attribute)

    assert str(raised.value).startswith(f"{name}={text!r} is not usable: ")
