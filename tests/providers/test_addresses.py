"""A path of a provider's own API finds its place behind any address that an admin may have written."""

from __future__ import annotations

import pytest

from providers.adapters.addresses import native_url


@pytest.mark.parametrize(
    ("base_url", "target", "url"),
    [
        ("https://api.acme.example/v1", "/v1/models", "https://api.acme.example/v1/models"),
        ("https://api.acme.example/v1", "/models", "https://api.acme.example/v1/models"),
        ("https://acme.example/llm/v1", "/v1/models", "https://acme.example/llm/v1/models"),
        ("https://acme.example/llm/v1", "/llm/v1/models", "https://acme.example/llm/v1/models"),
        ("https://acme.example/v1beta", "/v1/models", "https://acme.example/v1/models"),
        (
            "https://acme.example/v1",
            "/v1beta/models/m:gen?alt=sse&a=%20",
            "https://acme.example/v1beta/models/m:gen?alt=sse&a=%20",
        ),
        ("https://acme.example", "/model/a%2Fb/converse", "https://acme.example/model/a%2Fb/converse"),
        ("http://[::1]:8000/v1", "/v1/x/", "http://[::1]:8000/v1/x/"),
        ("https://acme.example/v1", "/v1x/models", "https://acme.example/v1/v1x/models"),
    ],
)
def test_path_and_address_are_joined(base_url: str, target: str, url: str) -> None:
    assert native_url(base_url, target) == url
