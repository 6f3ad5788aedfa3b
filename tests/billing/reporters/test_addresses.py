"""Where reporters may reach: checked when they are saved, and again at every connection."""

from __future__ import annotations

import ipaddress

import pytest
from django.core.exceptions import ValidationError

from billing.reporters.addresses import (
    Address,
    CheckedTransport,
    PrivateAddressError,
    Resolver,
    is_public,
    validate_database_url,
    validate_webhook_url,
)
from llmgateway.http import httpx


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1",
     "::1", "fe80::1", "fec0::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:3001/llm-usage", "https://localhost/", "http://[::1]/", "https://db.internal/x",
     "ftp://example.org/", "example.org", "https://user:pw@example.org/", "https://example.org/#x", "http://[::1",
     "https://example.org:99999/"],
)  # fmt: skip
def test_webhook_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        validate_webhook_url(url, allow_private=False)


def test_webhook_addresses_that_are_taken() -> None:
    validate_webhook_url("https://93.184.216.34/usage?token=x", allow_private=False)
    validate_webhook_url("http://127.0.0.1:3001/llm-usage", allow_private=True)


@pytest.mark.parametrize(
    "url",
    ["postgres://bill:pw@93.184.216.34/usage", "postgres://bill@127.0.0.1/usage", "postgres://bill@93.184.216.34",
     "postgres:///usage?host=/var/run/postgresql", "mysql://bill@93.184.216.34/usage", "sqlite:////tmp/usage.sqlite3",
     "postgres://bill@93.184.216.34/usage?hostaddr=127.0.0.1", "postgres://bill@93.184.216.34/usage?service=other",
     "postgres://bill@/usage?host=93.184.216.34,127.0.0.1"],
)  # fmt: skip
def test_database_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        validate_database_url(url, allow_private=False)


def test_database_addresses_that_are_taken() -> None:
    validate_database_url("postgres://bill@93.184.216.34:5432/usage?sslmode=require", allow_private=False)
    validate_database_url("postgres:///usage?host=/var/run/postgresql", allow_private=True)
    validate_database_url("sqlite:////tmp/usage.sqlite3", allow_private=True)
    with pytest.raises(ValidationError, match="whole path"):
        validate_database_url("sqlite:///usage.sqlite3", allow_private=True)


def resolver(*texts: str) -> Resolver:
    async def resolve(host: str, port: int) -> list[Address]:
        return [ipaddress.ip_address(text) for text in texts]

    return resolve


async def test_a_name_that_turned_private_is_not_connected_to() -> None:
    reached: list[httpx.Request] = []
    inner = httpx.MockTransport(lambda request: reached.append(request) or httpx.Response(200))  # type: ignore[func-returns-value]
    transport = CheckedTransport(allow_private=False, inner=inner, resolver=resolver("93.184.216.34", "10.0.0.5"))

    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(PrivateAddressError, match=r"hooks\.example\.org leads to a private network"):
            await client.post("https://hooks.example.org/usage")

    assert reached == []


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    reached: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reached.append(request)
        if request.url.host.startswith("2606"):
            raise httpx.ConnectError("no way there")
        return httpx.Response(200)

    transport = CheckedTransport(
        allow_private=False,
        inner=httpx.MockTransport(answer),
        resolver=resolver("2606:2800:220:1:248:1893:25c8:1946", "93.184.216.34"),
    )

    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.post("https://hooks.example.org/usage")).status_code == 200

    assert [request.url.host for request in reached] == ["2606:2800:220:1:248:1893:25c8:1946", "93.184.216.34"]
    assert reached[1].headers["host"] == "hooks.example.org"
    assert reached[1].extensions["sni_hostname"] == "hooks.example.org"


async def test_a_name_without_addresses_is_a_failure_to_connect() -> None:
    transport = CheckedTransport(allow_private=False, inner=httpx.MockTransport(lambda _: httpx.Response(200)))

    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError, match="does not resolve"):
            await client.post("https://hooks.example.org/usage")
