"""The adapter `bedrock`: addresses, signatures, API keys, errors. Its dialect is tested with the dialects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import CredentialError
from providers.adapters.registry import get_adapter
from providers.adapters.types import ErrorKind, NativeCall

BEDROCK = get_adapter("bedrock")
CONVERSE = get_dialect("bedrock.converse")
REGION = "https://bedrock-runtime.eu-central-1.amazonaws.com"
ACCESS_KEY = "AKIDEXAMPLEEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FIXTURES = Path(__file__).parent / "fixtures" / "bedrock"


def test_the_path_names_the_model_and_whether_it_streams() -> None:
    arn = "arn:aws:bedrock:eu-central-1:1:inference-profile/eu.x"

    assert BEDROCK.path(CONVERSE, "anthropic.claude-v1:0") == "/model/anthropic.claude-v1:0/converse"
    assert BEDROCK.path(CONVERSE, arn, stream=True) == (
        "/model/arn:aws:bedrock:eu-central-1:1:inference-profile%2Feu.x/converse-stream"
    )


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/model/m:0/converse", NativeCall("bedrock.converse", "/model/", "m:0", "/converse", False)),
        ("/model/a%2Fb/converse-stream", NativeCall("bedrock.converse", "/model/", "a/b", "/converse-stream", True)),
        ("/model/m/invoke", None),
        ("/guardrail/g/version/1/apply", None),
    ],
)
def test_native_paths_are_understood(path: str, call: NativeCall | None) -> None:
    assert BEDROCK.native_call(path) == call


def test_an_access_key_signs_each_request_for_the_region_of_its_address() -> None:
    signer = BEDROCK.signer(f"{ACCESS_KEY}:session/token==")
    assert signer is not None

    headers = dict(signer.headers("POST", f"{REGION}/model/m/converse", b"{}", 1_440_938_160.0))
    others = dict(signer.headers("POST", f"{REGION}/model/m/converse", b"{ }", 1_440_938_160.0))

    assert b"/20150830/eu-central-1/bedrock/aws4_request" in headers[b"authorization"]
    assert headers[b"x-amz-security-token"] == b"session/token=="
    assert headers[b"authorization"] != others[b"authorization"]
    assert BEDROCK.headers(ACCESS_KEY) == ()


def test_an_api_key_is_sent_as_it_is() -> None:
    assert BEDROCK.signer("bedrock-api-key-x") is None
    assert BEDROCK.headers("bedrock-api-key-x") == ((b"authorization", b"Bearer bedrock-api-key-x"),)
    assert BEDROCK.headers(None) == ()


def test_an_access_key_without_its_secret_is_refused_without_quoting_it() -> None:
    with pytest.raises(CredentialError) as refused:
        BEDROCK.signer("AKIDEXAMPLEEXAMPLE:")

    assert "AKID" not in str(refused.value)


def test_errors_mean_what_the_provider_means() -> None:
    for case in json.loads((FIXTURES / "errors.json").read_text()):
        assert BEDROCK.error_kind(case["status"], case["body"]) is ErrorKind(case["kind"]), case
