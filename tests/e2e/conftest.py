"""One product and one provider for all tests of this folder; tests that kill the product start their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import openai
import pytest

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, running_provider

SETTINGS = {"UPSTREAM_TRANSPORT": os.environ.get("E2E_UPSTREAM_TRANSPORT", "")}
"""`E2E_UPSTREAM_TRANSPORT=aiohttp` runs these tests on the other transport. Empty: the default."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(__file__.rsplit("/", 1)[0]):
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Provider]]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_provider(folder) as provider, running_product(folder, provider, **SETTINGS) as product:
        yield product, provider


@pytest.fixture
def product(running: tuple[Product, Provider]) -> Product:
    return running[0]


@pytest.fixture
def provider(running: tuple[Product, Provider]) -> Provider:
    running[1].reset()
    return running[1]


@pytest.fixture
def client(product: Product, provider: Provider) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK as an application has it: only base URL and key differ."""
    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def http(product: Product, provider: Provider) -> Iterator[httpx.Client]:
    """The wire, with a valid key."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=product.url, headers=headers, timeout=10) as client:
        yield client
