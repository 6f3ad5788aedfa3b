"""The adapter `azure` keeps the contract on its own fixtures."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from providers.adapters.dialects.registry import get_dialect
from providers.adapters.registry import get_adapter
from providers.validators import validate_base_url
from tests.providers.contract import ProviderContract

RESOURCE = "https://acme.openai.azure.com/openai"
AZURE = get_adapter("azure")
CHAT = get_dialect("openai.chat")


class TestAzure(ProviderContract):
    name = "azure"


def test_the_current_api_names_the_model_in_the_body() -> None:
    assert AZURE.url(f"{RESOURCE}/v1", CHAT, "gpt-4o") == f"{RESOURCE}/v1/chat/completions"
    assert AZURE.models_url(f"{RESOURCE}/v1") == f"{RESOURCE}/v1/models"


def test_an_api_version_names_the_deployment_in_the_path() -> None:
    base = f"{RESOURCE}?api-version=2024-10-21"

    assert AZURE.url(base, CHAT, "my gpt") == (
        f"{RESOURCE}/deployments/my%20gpt/chat/completions?api-version=2024-10-21"
    )
    assert AZURE.models_url(base) == f"{RESOURCE}/models?api-version=2024-10-21"


def test_an_api_version_is_the_only_query_that_an_address_may_have() -> None:
    validate_base_url("azure", "https://192.0.2.1/openai?api-version=2024-10-21", allow_private=True)
    with pytest.raises(ValidationError, match="query"):
        validate_base_url("azure", "https://192.0.2.1/openai?api-key=secret", allow_private=True)
    with pytest.raises(ValidationError, match="query"):
        validate_base_url("openai", "https://192.0.2.1/v1?api-version=2024-10-21", allow_private=True)
