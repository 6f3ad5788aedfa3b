"""“Test connection” as each provider sees it: the right address, authenticated as the adapter says."""

from __future__ import annotations

import pytest
import respx

from llmgateway.http import httpx
from providers.adapters.errors import CredentialError
from providers.adapters.registry import adapter_names, get_adapter
from providers.connection_check import check_connection
from providers.models import Credential, Deployment, Provider

ELSEWHERE = "https://llm.example.org/v1"


def deployment_at(adapter: str, *, base_url: str = "") -> Deployment:
    """A deployment that was never saved."""
    provider = Provider(name=adapter, adapter=adapter, base_url=base_url, allow_private_network=True)
    credential = Credential(provider=provider)
    credential.set_secret("sk-secret")
    return Deployment(name="main", provider=provider, credential=credential, model="some-model")


def takes_plain_keys(name: str) -> bool:
    try:
        get_adapter(name).signer("sk-secret")
    except CredentialError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in sorted(adapter_names()) if not takes_plain_keys(name)])
def test_a_credential_of_the_wrong_kind_is_told_before_anything_is_sent(name: str) -> None:
    result = check_connection(deployment_at(name, base_url=ELSEWHERE))

    assert not result.ok
    assert result.headline == "Not sent"
    assert "sk-secret" not in result.detail


@pytest.mark.parametrize("name", [name for name in sorted(adapter_names()) if takes_plain_keys(name)])
def test_every_adapter_asks_its_own_address_for_models(name: str, respx_mock: respx.MockRouter) -> None:
    base_url = "" if get_adapter(name).base_url else ELSEWHERE
    url = get_adapter(name).models_url(get_adapter(name).base_url or ELSEWHERE)
    route = respx_mock.get(url).respond(json={"object": "list", "data": [{"id": "some-model"}]})

    result = check_connection(deployment_at(name, base_url=base_url))

    assert route.call_count == 1
    sent = route.calls.last.request.headers
    assert dict(get_adapter(name).headers("sk-secret")).items() <= {
        (header.encode(), value.encode()) for header, value in sent.items()
    }
    assert "sk-secret" in str(sent.raw)
    assert result.ok
    assert "some-model is available" in result.detail


@pytest.mark.parametrize(
    "listing",
    [
        {"models": [{"name": "models/other"}, {"name": "models/some-model"}]},
        {"modelSummaries": [{"modelId": "some-model"}]},
    ],
)
def test_lists_of_other_shapes_are_read_as_well(listing: dict[str, object], respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"{ELSEWHERE}/models").respond(json=listing)

    result = check_connection(deployment_at("vllm", base_url=ELSEWHERE))

    assert "some-model is available" in result.detail


def test_a_redirect_is_not_followed(respx_mock: respx.MockRouter) -> None:
    """It would take the secret to an address that nobody allowed."""
    respx_mock.get(f"{ELSEWHERE}/models").respond(302, headers={"location": "http://169.254.169.254/"})

    assert not check_connection(deployment_at("vllm", base_url=ELSEWHERE)).ok


def test_a_refused_connection_is_told_without_the_secret(respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"{ELSEWHERE}/models").mock(side_effect=httpx.ConnectError("refused"))

    result = check_connection(deployment_at("vllm", base_url=ELSEWHERE))

    assert not result.ok
    assert "ConnectError" in result.detail
    assert "sk-secret" not in result.headline + result.detail


def test_headers_that_a_dialect_needs_are_sent(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.get("https://api.anthropic.com/v1/models").respond(json={"data": []})

    check_connection(deployment_at("anthropic"))

    assert route.calls.last.request.headers["anthropic-version"] == "2023-06-01"
