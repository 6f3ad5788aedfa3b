"""The same conversation in everybody's words, and what Bedrock's Converse is sent for it: written by hand, both."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.registry import get_dialect

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PNG = "data:image/png;base64,aW1n"
FUNCTION = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
CALL = {"id": "call_0001", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Where?"}, {"type": "image_url", "image_url": {"url": PNG}}],
        },
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_0001", "content": "sunny"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "required",
    "max_tokens": 50,
    "temperature": 0.5,
    "stop": ["END"],
}
SAID: dict[str, Any] = {
    "openai.chat": CHAT,
    "mistral.chat": {**CHAT, "tool_choice": "any"},
    "openai.responses": {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Where?"}, {"type": "input_image", "image_url": PNG}],
            },
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
            {"type": "function_call", "call_id": "call_0001", "name": "weather", "arguments": '{"city":"Paris"}'},
            {"type": "function_call_output", "call_id": "call_0001", "output": "sunny"},
        ],
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": "required",
        "max_output_tokens": 50,
        "temperature": 0.5,
    },
    "anthropic.messages": {
        "model": "m",
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Where?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aW1n"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "call_0001", "name": "weather", "input": {"city": "Paris"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_0001", "content": "sunny"}]},
        ],
        "tools": [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any"},
        "max_tokens": 50,
        "temperature": 0.5,
        "stop_sequences": ["END"],
    },
    "gemini.generate_content": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "Where?"}, {"inlineData": {"mimeType": "image/png", "data": "aW1n"}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "Let me see."},
                    {"functionCall": {"id": "call_0001", "name": "weather", "args": {"city": "Paris"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "call_0001", "name": "weather", "response": {"output": "sunny"}}}
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{**FUNCTION, "parametersJsonSchema": SCHEMA, "parameters": None}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "generationConfig": {"maxOutputTokens": 50, "temperature": 0.5, "stopSequences": ["END"]},
    },
}
SENT = {
    "system": [{"text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [{"text": "Where?"}, {"image": {"format": "png", "source": {"bytes": "aW1n"}}}],
        },
        {
            "role": "assistant",
            "content": [
                {"text": "Let me see."},
                {"toolUse": {"toolUseId": "call_0001", "name": "weather", "input": {"city": "Paris"}}},
            ],
        },
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "call_0001", "content": [{"text": "sunny"}]}}],
        },
    ],
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "weather", "description": "of a city", "inputSchema": {"json": SCHEMA}}}],
        "toolChoice": {"any": {}},
    },
    "inferenceConfig": {"maxTokens": 50, "temperature": 0.5, "stopSequences": ["END"]},
}


@pytest.mark.parametrize("name", SAID)
def test_everybody_s_words_become_the_same_request(name: str) -> None:
    asked = get_dialect(name).read_request(json.dumps(SAID[name]).encode(), model="m")

    written = get_dialect("bedrock.converse").write_request(asked, Limits("amazon.nova-pro-v1:0"))

    expected = json.loads(json.dumps(SENT))
    if name == "openai.responses":
        del expected["inferenceConfig"]["stopSequences"]  # It has none.
    assert json.loads(written.body) == expected
    assert written.dropped == ()
