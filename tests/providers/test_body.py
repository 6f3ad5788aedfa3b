"""Body surgery against a plain JSON implementation: what changes is what was meant, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters.body import (
    RequestHead,
    estimate_input_tokens,
    read_head,
    replace_model,
    with_output_cap,
    with_usage_requested,
)
from providers.adapters.errors import MalformedBodyError

CHAT = b'{"model":"fast","messages":[{"role":"user","content":"Hi"}],"temperature":0.10,"x_new":{"a":[1,2]}}'


def test_the_head_of_an_ordinary_request() -> None:
    head = read_head(b'{"model":"fast","stream":true,"n":2,"max_tokens":null,"max_completion_tokens":64,"user":"ana"}')

    assert head == RequestHead("fast", stream=True, n=2, max_completion_tokens=64, user="ana")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"model=fast", None),
        (b'{"model":"\xff"}', None),
        (b'{"model":"m","messages":' + b"[" * 100_000, None),
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (b"7", ""),
        (b"{}", "model"),
        (b'{"model":7}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","stream_options":[]}', "stream_options"),
        (b'{"model":"m","max_tokens":"many"}', "max_tokens"),
        (b'{"model":"m","n":1.5}', "n"),
        (
            b'{"model":"m","n":10001}',
            "n",
        ),  # Else what it holds grows past what the ledger can store, and its row is lost.
        (b'{"model":"m","user":{}}', "user"),
    ],
)
def test_a_malformed_body_is_refused_by_field(body: bytes, param: str | None) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        read_head(body)

    assert raised.value.param == param
    assert param is None or param in raised.value.message


def test_replacing_the_model_touches_nothing_else() -> None:
    assert replace_model(CHAT, "fast", "gpt-4o-mini") == CHAT.replace(b'"fast"', b'"gpt-4o-mini"')


def test_white_space_around_the_model_stays() -> None:
    assert replace_model(b'{ "model" :\n "fast" , "n": 1 }', "fast", "b") == b'{ "model" :\n "b" , "n": 1 }'


@pytest.mark.parametrize("gap", ["", " "])
def test_the_model_that_stands_first_is_the_one(gap: str) -> None:
    body = b'{"model":%b"fast","tools":[{"model":"fast"}],"user":"\\"model\\":\\"fast\\""}' % gap.encode()

    assert replace_model(body, "fast", 'b"c') == body.replace(b'"fast"', b'"b\\"c"', 1)


def test_a_model_inside_a_tool_or_a_message_stays() -> None:
    body = b'{"tools":[{"model":"fast"}],"model":"fast","messages":[{"content":"{\\"model\\":\\"fast\\"}"}],"t":0.10}'

    replaced = replace_model(body, "fast", "b")

    assert replaced == body.replace(b'],"model":"fast"', b'],"model":"b"')


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"dear","messages":[],"model":"dear"}',
        b'{"mod\\u0065l":"cheap","model":"dear"}',
        b'{"model":"cheap","\\u006Dodel":"dear"}',
    ],
)
def test_two_models_are_refused_however_they_are_spelled(body: bytes) -> None:
    with pytest.raises(MalformedBodyError) as raised:
        read_head(body)

    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"m","max_tokens":5,"max_tokens":5000}', "max_tokens"),
        (b'{"model":"m","n":9,"n":null}', "n"),
        (b'{"model":"m","\\u006e":9,"n":1}', "n"),
        (b'{"model":"m","messages":[1],"messages":[1]}', "messages"),
        (b'{"model":"m","messages":[{"a":"b:c"}],"stream":true, "stream" : false}', "stream"),
        (b'{ "model": "m", "messages": ["x"], "user": "ana", "user": "bob" }', "user"),
        (b'{"model":"m","service_tier":"default","service_tier":"priority"}', "service_tier"),
        (b'{"model":"m","":1,"":2}', ""),
    ],
)
def test_a_field_that_stands_twice_is_refused_by_name(body: bytes, field: str) -> None:
    """Admission would go by the last of them, and a provider might go by the first."""
    with pytest.raises(MalformedBodyError) as raised:
        read_head(body)

    assert f"more than one `{field}`" in raised.value.message


_NAMES = st.sampled_from(["n", "messages", "input", "prompt", "a:b", "\u00e9", "\n", "", "user:"])
_VALUES = st.recursive(
    st.sampled_from(["0", "null", '":"', '"\\":"', "[]", "12"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]")
        | inner.map(lambda each: f'{{"messages":{each},"messages":{each}}}')
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(_NAMES, st.booleans(), _VALUES), max_size=6), st.sampled_from([(":", ","), (": ", ", ")]))
def test_exactly_the_bodies_with_a_repeated_field_are_refused(
    fields: list[tuple[str, bool, str]], separators: tuple[str, str]
) -> None:
    colon, comma = separators
    fields = [each for each in fields if each[0] != "n" or each[2] in {"0", "12"}]
    pairs = [('"model"', '"m"'), *((json.dumps(name, ensure_ascii=escaped), value) for name, escaped, value in fields)]
    body = ("{" + comma.join(f"{name}{colon}{value}" for name, value in pairs) + "}").encode()

    names = [name for name, _, _ in fields]

    if len(set(names)) == len(names):
        assert read_head(body).model == "m"
    else:
        with pytest.raises(MalformedBodyError, match="more than one"):
            read_head(body)


def test_nested_models_are_no_second_model() -> None:
    body = b'{"tools":[{"model":{"model":"x"}}],"metadata":{"model":"\\u0065"},"model":"fast"}'

    assert read_head(body).model == "fast"


def test_a_model_spelled_with_escapes_is_found() -> None:
    assert json.loads(replace_model(b'{"mod\\u0065l":"f\\u0061st","n":1}', "fast", "b")) == {"model": "b", "n": 1}


def test_usage_is_requested_right_at_the_start() -> None:
    body = b' {"model":"fast","stream":true}'

    assert with_usage_requested(body, read_head(body)) == (
        b' {"stream_options":{"include_usage":true},"model":"fast","stream":true}'
    )


def test_a_request_that_asks_for_usage_stays_as_it_is() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    head = read_head(body)

    assert head.asked_for_usage
    assert with_usage_requested(body, head) is body


@pytest.mark.parametrize(
    "options", ["null", "{}", '{"include_usage":false}', '{"include_usage":"false"}', '{"include_obfuscation":false}']
)
def test_other_stream_options_survive(options: str) -> None:
    body = f'{{"model":"m","stream_options":{options},"temperature":0.10}}'.encode()

    changed = with_usage_requested(body, read_head(body))

    assert json.loads(changed)["stream_options"] == {**(json.loads(options) or {}), "include_usage": True}
    assert b'"temperature":0.10' in changed


@pytest.mark.parametrize("hidden", ["stream_\\u006fptions", "stream\\u005foptions", "\\u0073tream_options"])
@pytest.mark.parametrize("options", ["null", '{"include_usage":false}'])
def test_no_spelling_switches_usage_off(hidden: str, options: str) -> None:
    body = f'{{"model":"m","stream":true,"{hidden}":{options}}}'.encode()

    assert json.loads(with_usage_requested(body, read_head(body)))["stream_options"] == {"include_usage": True}


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("model"), inner, max_size=3),
    max_leaves=8,
)
own_fields = {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "user"}
requests = st.builds(
    lambda before, model, after, options: {**before, "model": model, **after, **options},
    st.dictionaries(st.text().filter(lambda name: name not in own_fields), json_values, max_size=3),
    st.text(min_size=1),
    st.dictionaries(st.text().filter(lambda name: name not in own_fields), json_values, max_size=3),
    st.fixed_dictionaries({}, optional={"stream_options": st.none() | st.dictionaries(st.text(), json_values)}),
)


@given(requests, st.text(min_size=1), st.booleans(), st.sampled_from([None, 2]))
def test_any_request_changes_as_plain_json_would(
    request: dict[str, Any], new: str, ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(request, ensure_ascii=ascii_only, indent=indent).encode()

    replaced = replace_model(body, request["model"], new)
    asked = with_usage_requested(replaced, read_head(replaced))

    assert json.loads(replaced) == {**request, "model": new}
    options = {**(request.get("stream_options") or {})}
    options["include_usage"] = True
    assert json.loads(asked) == {**request, "model": new, "stream_options": options}


def test_text_is_estimated_by_its_length() -> None:
    assert estimate_input_tokens(b"x" * 4000, 4.0) == 1001


@pytest.mark.parametrize(
    ("body", "fields", "expected"),
    [
        (b'{"model":"m"}', ("max_tokens", "max_completion_tokens"), {"max_tokens": 9}),
        (b'{"model":"m","max_completion_tokens":50}', ("max_tokens", "max_completion_tokens"), {"max_completion_tokens": 9}),
        (b'{"model":"m","max_tokens":5,"max_completion_tokens":50}', ("max_tokens", "max_completion_tokens"),
         {"max_tokens": 5, "max_completion_tokens": 9}),
        (b'{"model":"m","max_tokens":null}', ("max_tokens",), {"max_tokens": 9}),
        (b'{"model":"m","max_tokens":-1}', ("max_tokens", "max_completion_tokens"), {"max_tokens": 9}),
        (b'{"model":"m","max_tokens":5,"max_completion_tokens":-1}', ("max_tokens", "max_completion_tokens"),
         {"max_tokens": 5, "max_completion_tokens": 9}),
    ],
)  # fmt: skip
def test_a_cap_is_lowered_where_it_stands_and_added_where_none_is(
    body: bytes, fields: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert json.loads(with_output_cap(body, fields, 9)) == {"model": "m", **expected}


def test_a_cap_changes_nothing_else() -> None:
    body = b'{ "model" : "m", "novel": 1.50, "messages": [ {"content": "\\u00e9"} ] }'

    capped = with_output_cap(body, ("max_tokens",), 9)

    assert b'"novel":1.50' in capped
    assert b'[ {"content": "\\u00e9"} ]' in capped


def test_long_text_is_estimated_by_bytes_and_short_by_characters() -> None:
    assert estimate_input_tokens("é".encode() * 100, 1.0) == 101
    assert estimate_input_tokens(b"a" * 1000, 4.0, bytes_per_token=2.0, max_sample_bytes=200) == 50 + 400 + 1


@pytest.mark.parametrize("name", ["Model", "MODEL", "maX_To\u212aens", "\u017ftream", "Tools"])
def test_a_field_that_another_server_reads_in_another_spelling_is_refused(name: str) -> None:
    body = json.dumps({"model": "cheap", "messages": [], name: "dear"}, ensure_ascii=False).encode()

    with pytest.raises(MalformedBodyError) as caught:
        read_head(body)

    assert caught.value.param == name
