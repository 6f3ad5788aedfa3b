"""The smallest real request: what is sent, and what is said of the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmgateway.http import httpx
from providers.connection_check import ConnectionResult, check_connection
from providers.models import Credential, Deployment, Provider

pytestmark = pytest.mark.django_db
SECRET = "sk-upstream-0123456789"


@pytest.fixture
def deployment() -> Deployment:
    # An address that is public, so that nothing is looked up.
    provider = Provider.objects.create(name="acme", adapter="openai_compatible", base_url="https://9.9.9.9/v1/")
    credential = Credential(provider=provider)
    credential.set_secret(SECRET)
    credential.save()
    return Deployment.objects.create(name="small", provider=provider, credential=credential, model="small-1")


def _check(deployment: Deployment, answer: Callable[[httpx.Request], httpx.Response]) -> ConnectionResult:
    result = check_connection(deployment, transport=httpx.MockTransport(answer))
    assert SECRET not in result.headline + result.detail
    return result


def test_it_asks_for_the_models_with_the_credential(deployment: Deployment) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, str(request.url)) == ("GET", "https://9.9.9.9/v1/models")
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        return httpx.Response(200, json={"data": [{"id": "small-1"}]})

    result = _check(deployment, answer)

    assert result.ok
    assert result.headline.startswith("HTTP 200 in ")
    assert result.detail == "Connected; small-1 is available."


@pytest.mark.parametrize(
    ("answer", "ok", "detail"),
    [
        (httpx.Response(200, json={"data": [{"id": "other"}]}), True, "not among the models"),
        (httpx.Response(200, text="welcome"), True, "Connected."),
        (httpx.Response(200, json={"data": [1, None]}), True, "Connected."),
        (httpx.Response(401, json={"error": SECRET}), False, "refuses the credential"),
        (httpx.Response(404), False, "check the base URL"),
        (httpx.Response(429), False, "limits its rate"),
        (httpx.Response(302, headers={"location": "http://127.0.0.1/"}), False, "answered with an error"),
        (httpx.Response(500), False, "answered with an error"),
    ],
)
def test_each_answer_says_what_to_do(deployment: Deployment, answer: httpx.Response, ok: bool, detail: str) -> None:
    result = _check(deployment, lambda _request: answer)

    assert result.ok is ok
    assert detail in result.detail


@pytest.mark.parametrize(
    ("error", "headline"), [(httpx.ConnectError("refused"), "Not connected"), (httpx.ReadTimeout("slow"), "No answer")]
)
def test_a_provider_that_cannot_be_reached_is_a_result(
    deployment: Deployment, error: httpx.HTTPError, headline: str
) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    assert _check(deployment, answer).headline == headline


def test_a_private_address_is_asked_only_where_that_is_allowed(deployment: Deployment) -> None:
    deployment.provider.base_url = "http://127.0.0.1:9/v1"
    sent = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    refused = _check(deployment, answer)
    assert "private network" in refused.detail
    assert sent == []
    deployment.provider.allow_private_network = True
    assert _check(deployment, answer).ok


@pytest.mark.parametrize(
    ("secret", "detail"), [("env:NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"), ("schlüssel-€", "enter it again")]
)
def test_a_credential_that_cannot_be_used_is_a_result(deployment: Deployment, secret: str, detail: str) -> None:
    assert deployment.credential is not None
    deployment.credential.set_secret(secret)

    result = _check(deployment, lambda _request: httpx.Response(200))

    assert result.headline == "Not sent"
    assert detail in result.detail
    assert "schlüssel" not in result.detail
