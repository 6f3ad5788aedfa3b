"""AWS's signatures, compared with those that AWS's own library makes for the same requests."""

from __future__ import annotations

import pytest

from providers.adapters._aws_signature import Credentials, signed

NOW = 1_440_938_160.0  # 2015-08-30T12:36:00Z
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("method", "url", "body", "token", "signature"),
    [
        (
            "POST", f"{BEDROCK}/model/anthropic.claude-v1:0/converse", b'{"a":1}', "",
            "8cb2695f07cd019f71f29a70a8356d32289e81ca937bc4994b8faf71d45a4d45",
        ),
        ("GET", "https://example.amazonaws.com/", b"", "", "66c7d5b3687aef1c9a331ab971fd692447d8ab862097f335ebe9a90f6a9bac11"),
        (
            "POST",
            "https://bedrock-runtime.eu-west-1.amazonaws.com/model/arn:aws:bedrock:us-east-1:1:inference-profile%2Fus.x/converse-stream",
            b"{}", "SESSION/tok==",
            "fceedfb505c305d74daaf408ff869301fdff2ff259a038d9d57d88887a9f1703",
        ),
        (
            "GET", "https://b.amazonaws.com/x?b=2&a=%2Fz&a=1", b"", "",
            "11b83426efda19874a0f01fde75aa5b98c0d61f342cafe00c8e5badcd4663909",
        ),
    ],
)  # fmt: skip
def test_the_signature_is_the_one_that_aws_expects(
    method: str, url: str, body: bytes, token: str, signature: str
) -> None:
    credentials = Credentials("AKIDEXAMPLE", SECRET, token)

    headers = dict(
        signed(credentials, method=method, url=url, body=body, region="us-east-1", service="bedrock", now=NOW)
    )

    assert headers[b"authorization"].endswith(signature.encode())
    assert headers[b"authorization"].startswith(
        b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, "
    )
    assert headers[b"x-amz-date"] == b"20150830T123600Z"
    assert headers.get(b"x-amz-security-token", b"") == token.encode()
    assert b"host" not in headers
