"""What tests of Gemini's dialect have in common: what it can say, and short ways to read and write it."""

from __future__ import annotations

import json
from typing import Any

from providers.adapters.dialects.conversation import (
    Conversation,
    Thinking,
)
from providers.adapters.dialects.registry import get_dialect

GEMINI = get_dialect("gemini.generate_content")
ASKED = Conversation("gemini-2.5-flash", (), stream=True, thinking=Thinking(visible=True))


def read(body: dict[str, Any], *, stream: bool = False) -> Conversation:
    return GEMINI.read_request(json.dumps(body).encode(), model="m", stream=stream)


EVERYTHING: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "What is this?"},
                {"inlineData": {"mimeType": "image/png", "data": "AAEC"}},
                {"fileData": {"mimeType": "application/pdf", "fileUri": "https://example.org/a.pdf"}},
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "Let me see.", "thought": True},
                {"functionCall": {"id": "c1", "name": "look", "args": {"at": "it"}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "look", "args": {"at": "that"}}},
            ],
        },
        {
            "parts": [
                {"functionResponse": {"id": "c1", "name": "look", "response": {"output": "A cat."}}},
                {"functionResponse": {"name": "look", "response": {"error": "too dark"}}},
            ],
        },
    ],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "look",
                    "description": "Looks.",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"at": {"type": "STRING", "nullable": True, "description": "what"}},
                        "required": ["at"],
                    },
                }
            ]
        },
        {"googleSearch": {}},
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
    "generationConfig": {
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "maxOutputTokens": 500,
        "stopSequences": ["END"],
        "candidateCount": 2,
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"kind": {"type": "STRING", "enum": ["cat", "dog"]}}},
        "responseLogprobs": True,
        "logprobs": 3,
        "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
    },
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
}


def chunk(*parts: dict[str, Any], finish: str = "", usage: dict[str, Any] | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    more = {"usageMetadata": usage or {"promptTokenCount": 8, "totalTokenCount": 8}}
    return {"candidates": [candidate], **more, "modelVersion": "gemini-2.5-flash", "responseId": "r1"}
