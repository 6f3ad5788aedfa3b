"""Forms with files are read as every server reads them, and changed in one place alone."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgateway.http import httpx
from providers.adapters.dialects._forms import FormWire, read_form
from providers.adapters.dialects._multipart import Form
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.errors import MalformedBodyError

TRANSCRIPTIONS = get_dialect("openai.transcriptions")


def encoded(fields: dict[str, str], files: dict[str, bytes], boundary: str = "xYz-1") -> bytes:
    """What a real client makes of it."""
    request = httpx.Request(
        "POST",
        "http://any.test",
        data=fields,
        files={name: (f"{name}.bin", content) for name, content in files.items()},
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    return request.read()


def raw(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


def field(name: bytes, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name, value)


def test_a_form_of_a_real_client_is_read() -> None:
    body = encoded({"model": "whisper", "language": "de"}, {"file": b"RIFF\r\n--xYz\x00\xff"})

    form = Form(body)

    assert form.values() == {"model": "whisper", "language": "de"}
    assert [body[start:end] for start, end in form.file_spans()] == [b"RIFF\r\n--xYz\x00\xff"]
    assert form.content_type == b"multipart/form-data; boundary=xYz-1"


@given(st.binary(max_size=300), st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text))
def test_another_model_changes_nothing_else(content: bytes, model: str) -> None:
    if b"xYz-1" in content:
        return
    body = encoded({"model": "whisper", "prompt": "Grüße"}, {"file": content})

    changed = Form(body).with_value("model", model)

    assert Form(changed).values() == {"model": model, "prompt": "Grüße"}
    assert changed.replace(model.encode(), b"whisper", 1) == body or changed.count(model.encode()) > 1
    assert [changed[start:end] for start, end in Form(changed).file_spans()] == [content]


def test_pythons_own_reader_agrees() -> None:
    body = encoded({"model": "a", "n": "2"}, {"image": b"\x89PNG"})
    form = Form(body)

    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + form.content_type + b"\r\n\r\n" + body
    )

    names = [part.get_param("name", header="content-disposition") for part in message.iter_parts()]
    assert names == [part.name for part in form.parts]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"file=1&model=2",
        b"--b\r\n",
        b"--b\n" + field(b"model", b"m") + b"\n--b--\n",
        raw(field(b"model", b"m"))[:-6],
        raw(b"Content-Disposition: attachment\r\n\r\nm"),
        raw(b"Content-Type: text/plain\r\n\r\nm"),
        raw(b'Content-Disposition: form-data; name="mo\\del"\r\n\r\nm'),
        raw(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nm"),
        raw(b'Content-Disposition: form-data; name="a"; name="model"\r\n\r\nm'),
        raw(b'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"\r\n\r\nm'),
        raw(b'Content-Disposition: form-data;\r\n name="model"\r\n\r\nm'),
        raw(b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64\r\n\r\nbQ=='),
        raw(field(b"model", b"m"), boundary=b"x" * 80),
        b"--b\r\n" + field(b"model", b"m") + b"\r\n--bc\r\n--b--",
        b"preamble\r\n" + raw(field(b"model", b"m")),
    ],
)
def test_what_servers_could_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        Form(body)


@pytest.mark.parametrize(
    "parts",
    [
        (field(b"model", b"cheap"), field(b"model", b"dear")),
        (b'Content-Disposition: form-data; name="model"; filename="m"\r\n\r\ncheap',),
        (field(b"language", b"de"),),
        (field(b"model", b""),),
        (field(b"model", b"\xff"),),
    ],
)
def test_a_form_names_one_model(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        TRANSCRIPTIONS.read_head(raw(*parts))

    assert raised.value.param == "model"


def test_the_head_of_a_form() -> None:
    head = TRANSCRIPTIONS.read_head(raw(field(b"model", b"m"), field(b"stream", b"true"), field(b"n", b"3")))

    assert (head.model, head.stream, head.choices) == ("m", True, 3)
    with pytest.raises(MalformedBodyError):
        TRANSCRIPTIONS.read_head(raw(field(b"model", b"m"), field(b"n", b"many")))


def test_a_part_without_a_value_and_a_boundary_that_needs_quotes() -> None:
    body = raw(field(b"model", b"m"), field(b"prompt", b""), boundary=b"a b(c)")

    assert Form(body).values() == {"model": "m", "prompt": ""}
    assert Form(body).content_type == b'multipart/form-data; boundary="a b(c)"'


def test_a_file_is_not_text_and_json_passes_too() -> None:
    assert isinstance(TRANSCRIPTIONS, FormWire)
    body = encoded({"model": "m", "prompt": "hello"}, {"file": b"x" * 100_000})

    assert len(TRANSCRIPTIONS.text(body)) < 100
    assert read_form(body) is read_form(body)
    assert TRANSCRIPTIONS.read_head(b'{"model": "m"}').model == "m"
    assert TRANSCRIPTIONS.content_type(b'{"model": "m"}') == b"application/json"
