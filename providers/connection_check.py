"""Asks a deployment's provider for its models: the smallest real request there is, and it costs nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from llmgateway.http import httpx
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import CredentialError, UnknownAdapterError
from providers.adapters.registry import get_adapter
from providers.adapters.types import JSONObject, Signer
from providers.models import Deployment
from providers.validators import is_private_host

TIMEOUT_S = 10.0
MAX_BODY = 2**20


@dataclass(frozen=True, slots=True)
class ConnectionResult:
    """What came of it. Neither text holds the secret or the body of the answer."""

    ok: bool
    headline: str
    detail: str

    @property
    def tone(self) -> str:
        return "good" if self.ok else "bad"


def check_connection(deployment: Deployment, *, transport: httpx.BaseTransport | None = None) -> ConnectionResult:
    """Send the request and say what happened: status, time, and what to do next. Raises nothing."""
    try:
        url, headers, signer = _request_of(deployment)
    except (ImproperlyConfigured, UnknownAdapterError, UnicodeEncodeError, CredentialError) as error:
        return ConnectionResult(False, "Not sent", _plain_reason(error))
    host = urlsplit(url).hostname or ""
    if not deployment.provider.allow_private_network and is_private_host(host):
        return ConnectionResult(
            False, "Not sent", f"{host} is on a private network; tick “allow private network” on the provider."
        )
    started = time.perf_counter()
    try:
        # Environment proxies and redirects would lead to an address that was not checked.
        with (
            httpx.Client(timeout=TIMEOUT_S, transport=transport, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url, headers=[*headers, *_signed(client, url, signer)]) as answer,
        ):
            listed = _lists_model(answer, deployment.model)
    except ValueError as error:
        return ConnectionResult(False, "Not sent", f"{deployment.provider.name} gave no token: {error}")
    except httpx.TimeoutException:
        return ConnectionResult(False, "No answer", f"{host} did not answer within {TIMEOUT_S:.0f} s.")
    except httpx.HTTPError as error:
        return ConnectionResult(False, "Not connected", f"{host}: {type(error).__name__}. Check the address and port.")
    return _verdict(deployment, answer.status_code, time.perf_counter() - started, listed=listed)


def _request_of(deployment: Deployment) -> tuple[str, list[tuple[bytes, bytes]], Signer | None]:
    adapter = get_adapter(deployment.provider.adapter)
    secret = deployment.credential.resolve_secret() if deployment.credential else None
    base_url = (deployment.provider.base_url or adapter.base_url).rstrip("/")
    headers = [*get_dialect(adapter.dialects()[0]).needed_headers, *adapter.headers(secret)]
    return adapter.models_url(base_url), headers, adapter.signer(secret)


def _signed(client: httpx.Client, url: str, signer: Signer | None) -> list[tuple[bytes, bytes]]:
    """The headers of this one request; first its short-lived token, where one is needed.

    Raises:
        ValueError: the credential brings no token.
    """
    if signer is None:
        return []
    needed = signer.token_request(time.time())
    if needed is not None:
        answer = client.post(needed.url, headers=list(needed.headers), content=needed.body)
        signer.take_token(answer.status_code, answer.content, time.time())
    return list(signer.headers("GET", url, b"", time.time()))


def _plain_reason(error: Exception) -> str:
    # The text of an encoding error quotes what could not be encoded: the secret.
    if isinstance(error, UnicodeEncodeError):
        return "The credential holds characters that cannot stand in a header; enter it again."
    return str(error)


def _lists_model(answer: httpx.Response, model: str) -> bool | None:
    """Whether the provider names `model`. None: the answer is no list of models, or too long to read."""
    body = b""
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > MAX_BODY:
            return None
    try:
        content = httpx.Response(200, content=body).json()
        listed = next(content[name] for name in _LISTS if name in content)
        return any(_is_called(item, model) for item in listed)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


_LISTS = ("data", "models", "modelSummaries")
"""Where lists of models have them, at one provider or another."""


def _is_called(item: JSONObject, model: str) -> bool:
    """Some have a path for a name, of which the last part is what calls say."""
    names = [str(item.get(field, "")) for field in ("id", "name", "modelId")]
    return any(name == model or name.endswith(f"/{model}") for name in names)


def _verdict(deployment: Deployment, status: int, seconds: float, *, listed: bool | None) -> ConnectionResult:
    headline = f"HTTP {status} in {seconds * 1000:.0f} ms"
    provider = deployment.provider.name
    if status in (401, 403):
        return ConnectionResult(False, headline, f"{provider} refuses the credential; check the secret and its rights.")
    if status == 404:
        return ConnectionResult(
            False, headline, f"{provider} has no /models there; check the base URL (with its version)."
        )
    if status == 429:
        return ConnectionResult(False, headline, f"{provider} knows the credential but limits its rate or quota.")
    if not 200 <= status < 300:
        return ConnectionResult(
            False, headline, f"{provider} answered with an error; try again, or look at its status page."
        )
    if listed is False:
        return ConnectionResult(True, headline, f"Connected, but {deployment.model} is not among the models it lists.")
    return ConnectionResult(True, headline, f"Connected{f'; {deployment.model} is available' if listed else ''}.")
