"""Gemini's generateContent: what passes through, and what is said in the common form."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from providers.adapters.dialects.base import Limits, WireError
from providers.adapters.dialects.conversation import (
    Citation,
    Conversation,
    File,
    Foreign,
    ForeignTool,
    Image,
    OutputFormat,
    Reasoning,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.dialects.reply import (
    BlockEnded,
    BlockStarted,
    Choice,
    ChoiceEnded,
    Delta,
    Ended,
    Event,
    Failed,
    Reply,
    Started,
    events_of,
)
from providers.adapters.errors import InexpressibleError, MalformedAnswerError, MalformedBodyError, MalformedUsageError
from providers.adapters.types import ErrorKind, Usage
from tests.providers.dialects.strategies import (
    Says,
    conversations,
    folded,
    merged,
    plain,
    read_stream,
    replies,
    written_stream,
)

GEMINI = get_dialect("gemini.generate_content")
SAYS = Says(
    developer=False,
    system_anywhere=False,
    names=False,
    cache=False,
    custom_tools=False,
    strict=False,
    refusals=False,
    logit_bias=False,
    verbosity=False,
    metadata=False,
    user=False,
    parallel=False,
    cache_writes=False,
    stop_sequence=False,
)
LIMITS = Limits("gemini-2.5-flash")
ASKED = Conversation("gemini-2.5-flash", (), stream=True, thinking=Thinking(visible=True))


def read(body: dict[str, Any], *, stream: bool = False) -> Conversation:
    return GEMINI.read_request(json.dumps(body).encode(), model="m", stream=stream)


def write(conversation: Conversation, model: str = "gemini-2.5-flash") -> dict[str, Any]:
    written: dict[str, Any] = json.loads(GEMINI.write_request(conversation, Limits(model)).body)
    return written


def said(*turns: Turn, **more: Any) -> Conversation:
    return Conversation("m", turns or (Turn("user", (Text("Hi"),)),), **more)


# ── what is written reads the same ──


def sayable(conversation: Conversation) -> Conversation:
    """Without names of schemas; a choice of one allowed tool is that tool; results name their tool."""
    replace = msgspec.structs.replace
    choice, output_format = conversation.tool_choice, conversation.output_format
    if choice is not None and choice.mode == "required" and len(choice.allowed) == 1:
        choice = ToolChoice("tool", choice.allowed[0])
    if output_format is not None:
        output_format = replace(output_format, name="", strict=None)
    turns = tuple(
        replace(turn, blocks=tuple(_named(block, conversation) for block in turn.blocks)) for turn in conversation.turns
    )
    return replace(conversation, turns=turns, tool_choice=choice, output_format=output_format)


def _named(block: Any, conversation: Conversation) -> Any:
    if isinstance(block, ToolResult):
        content = tuple(_typed(each) for each in block.content)
        return msgspec.structs.replace(block, name=conversation.tool_names().get(block.call_id, ""), content=content)
    return _typed(block)


def _typed(block: Any) -> Any:
    """An address says what it holds."""
    if isinstance(block, Image) and block.source.url:
        return msgspec.structs.replace(block, source=Source(url=block.source.url, media_type="image/png"))
    return block


def owned(reply: Reply) -> Reply:
    """Thoughts and citations are Gemini's own, and nothing says when it was made."""
    choices = []
    for choice in reply.choices:
        blocks: list[Any] = []
        for block in choice.blocks:
            if isinstance(block, Reasoning):
                blocks.append(Reasoning(block.text, "c2ln", summary=True, dialect=GEMINI.name))
            elif isinstance(block, Text):
                cited = tuple(msgspec.structs.replace(each, dialect=GEMINI.name) for each in block.citations)
                blocks.append(Text(block.text, cited))
            else:
                blocks.append(block)
        choices.append(msgspec.structs.replace(choice, blocks=tuple(blocks)))
    return msgspec.structs.replace(reply, created=0, choices=tuple(choices))


@settings(max_examples=80, deadline=None)
@given(conversations(SAYS, GEMINI.name).map(sayable))
def test_a_request_that_is_written_reads_the_same(conversation: Conversation) -> None:
    written = GEMINI.write_request(conversation, LIMITS)

    assert written.dropped == ()
    again = GEMINI.read_request(written.body, model=conversation.model, stream=conversation.stream)
    assert merged(again) == merged(conversation)


@settings(max_examples=80, deadline=None)
@given(replies(SAYS).map(owned))
def test_an_answer_that_is_written_reads_the_same(reply: Reply) -> None:
    assert plain(GEMINI.read_reply(GEMINI.write_reply(reply, ASKED))) == reply


@settings(max_examples=80, deadline=None)
@given(replies(SAYS).map(owned))
def test_a_stream_brings_the_same_answer_however_it_is_cut(reply: Reply) -> None:
    stream = written_stream(GEMINI, events_of(reply), ASKED)

    assert plain(folded(read_stream(GEMINI, stream))) == reply
    assert folded(read_stream(GEMINI, stream, 1)) == folded(read_stream(GEMINI, stream))


# ── requests ──

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


def test_everything_that_a_request_says_is_understood() -> None:
    conversation = read(EVERYTHING, stream=True)

    system, user, model, results = conversation.turns
    assert system == Turn("system", (Text("Be brief."),))
    assert user.blocks == (
        Text("What is this?"),
        Image(Source(data="AAEC", media_type="image/png")),
        File(Source(url="https://example.org/a.pdf", media_type="application/pdf")),
    )
    assert model.role == "assistant"
    assert model.blocks == (
        Reasoning("Let me see.", summary=True, dialect=GEMINI.name),
        ToolCall("c1", "look", '{"at":"it"}', signature="c2ln"),
        ToolCall("call_1", "look", '{"at":"that"}'),
    )
    assert results.blocks == (
        ToolResult("c1", (Text("A cat."),), "look"),
        ToolResult("call_1", (Text("too dark"),), "look", is_error=True),
    )
    schema = {
        "type": "object",
        "properties": {"at": {"type": ["string", "null"], "description": "what"}},
        "required": ["at"],
    }
    assert conversation.tools == (Tool("look", "Looks.", schema), ForeignTool(GEMINI.name, {"googleSearch": {}}))
    assert conversation.tool_choice == ToolChoice("tool", "look")
    assert conversation.output_format == OutputFormat(
        "json_schema", schema={"type": "object", "properties": {"kind": {"type": "string", "enum": ["cat", "dog"]}}}
    )
    assert conversation.thinking == Thinking(budget_tokens=1024, visible=True)
    assert (conversation.temperature, conversation.top_p, conversation.top_k) == (0.5, 0.9, 40)
    assert (conversation.max_output_tokens, conversation.stop, conversation.choices) == (500, ("END",), 2)
    assert (conversation.seed, conversation.presence_penalty, conversation.frequency_penalty) == (7, 0.1, 0.2)
    assert (conversation.logprobs, conversation.top_logprobs) == (True, 3)
    assert conversation.extra == {
        "safetySettings": EVERYTHING["safetySettings"],
        "generationConfig.mediaResolution": "MEDIA_RESOLUTION_LOW",
    }


def test_names_with_underscores_mean_the_same() -> None:
    def spelled(value: Any) -> Any:
        if isinstance(value, list):
            return [spelled(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): spelled(v) for name, v in value.items()}

    assert read(spelled(EVERYTHING)) == read(EVERYTHING)


def test_what_only_gemini_knows_comes_back_to_it() -> None:
    again = write(read(EVERYTHING))

    assert again["safetySettings"] == EVERYTHING["safetySettings"]
    assert again["generationConfig"]["mediaResolution"] == "MEDIA_RESOLUTION_LOW"
    assert again["tools"][1] == {"googleSearch": {}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"contents": 7}, "contents"),
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"text": 7}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"inlineData": {}}]}]}, "contents[0].parts[0].inlineData.data"),
        ({"contents": [{"parts": [{"functionCall": {}}]}]}, "contents[0].parts[0].functionCall.name"),
        ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature"),
        ({"generationConfig": {"topP": 1, "top_p": 0.5}}, "generationConfig.topP"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        read(body)

    assert refusal.value.param == param


def test_one_that_stands_alone_is_a_list_of_one() -> None:
    """Google's servers take it, and examples in its documentation had it."""
    tool = {"functionDeclarations": {"name": "f", "description": None}}

    found = read({"systemInstruction": {"parts": {"text": "A"}}, "contents": {"parts": {"text": "B"}}, "tools": tool})

    assert found.turns == (Turn("system", (Text("A"),)), Turn("user", (Text("B"),)))
    assert found.tools == (Tool("f"),)


def test_hints_do_not_make_a_part_a_stranger() -> None:
    picture = {"inlineData": {"mimeType": "image/png", "data": "AAEC"}}
    sharp = {**picture, "mediaResolution": {"level": "MEDIA_RESOLUTION_HIGH"}, "videoMetadata": None}

    (block,) = read({"contents": [{"parts": [sharp]}]}).turns[0].blocks

    assert block == Image(Source(data="AAEC", media_type="image/png"), detail="high")


def test_stored_contents_cannot_be_said_elsewhere() -> None:
    conversation = read({"cachedContent": "cachedContents/1", "contents": [{"parts": [{"text": "Hi"}]}]})

    with pytest.raises(InexpressibleError):
        get_dialect("openai.chat").write_request(conversation, Limits("gpt-x"))
    assert write(conversation)["cachedContent"] == "cachedContents/1"


def test_parts_that_only_gemini_knows_are_kept_for_it() -> None:
    part = {"executableCode": {"language": "PYTHON", "code": "1+1"}}

    conversation = read({"contents": [{"role": "model", "parts": [part]}]})

    assert conversation.turns[0].blocks == (Foreign(GEMINI.name, part),)
    assert write(conversation)["contents"][0]["parts"] == [part]


def test_system_turns_become_the_instruction_wherever_they_stood() -> None:
    body = write(said(Turn("system", (Text("A"),)), Turn("user", (Text("Hi"),)), Turn("developer", (Text("B"),))))

    assert body["systemInstruction"] == {"parts": [{"text": "A"}, {"text": "B"}]}
    assert body["contents"] == [{"role": "user", "parts": [{"text": "Hi"}]}]


def test_an_instruction_alone_is_what_the_user_says() -> None:
    assert write(said(Turn("system", (Text("Go."),)))) == {"contents": [{"role": "user", "parts": [{"text": "Go."}]}]}


def test_results_of_parallel_calls_come_together() -> None:
    calls = Turn("assistant", (ToolCall("a", "f", "{}"), ToolCall("b", "g", "")))
    body = write(
        said(
            Turn("user", (Text("Hi"),)),
            calls,
            Turn("user", (ToolResult("a", (Text("1"),)),)),
            Turn("user", (ToolResult("b", (Text("2"), Image(Source(data="AAEC", media_type="image/png")))),)),
            Turn("user", (Text("So?"),)),
        )
    )

    assert [len(content["parts"]) for content in body["contents"]] == [1, 2, 2, 1]
    assert body["contents"][2]["parts"][1] == {
        "functionResponse": {
            "id": "b",
            "name": "g",
            "response": {"output": "2"},
            "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAEC"}}],
        }
    }


@pytest.mark.parametrize(("model", "signature"), [("gemini-3-pro-preview", True), ("gemini-2.5-flash", False)])
def test_calls_of_other_models_are_excused_from_their_signature(model: str, signature: bool) -> None:
    """From its third generation on, Gemini refuses a first call without one."""
    calls = Turn("assistant", (ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}")))

    first, second = write(said(Turn("user", (Text("Hi"),)), calls), model)["contents"][1]["parts"]

    assert ("thoughtSignature" in first) is signature
    assert "thoughtSignature" not in second


@pytest.mark.parametrize(
    ("thinking", "model", "written"),
    [
        (Thinking("high"), "gemini-2.5-pro", {"thinkingBudget": 24576}),
        (Thinking("none"), "gemini-2.5-flash", {"thinkingBudget": 0}),
        (Thinking("high"), "gemini-3-pro-preview", {"thinkingLevel": "HIGH"}),
        (Thinking("xhigh"), "gemini-3-pro-preview", {"thinkingLevel": "HIGH"}),
        (Thinking(budget_tokens=2000), "gemini-3-pro-preview", {"thinkingBudget": 2000}),
        (Thinking(budget_tokens=-1, visible=True), "gemini-2.5-pro", {"thinkingBudget": -1, "includeThoughts": True}),
        (Thinking("low", summary="auto"), "gemini-flash-latest", {"thinkingBudget": 2048, "includeThoughts": True}),
    ],
)
def test_thinking_is_asked_for_in_the_words_of_the_model(
    thinking: Thinking, model: str, written: dict[str, Any]
) -> None:
    assert write(said(thinking=thinking), model)["generationConfig"]["thinkingConfig"] == written


def test_schemas_are_adapted_without_losing_what_they_demand() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"const": {"const": "x"}, "$schema": {"type": "string"}},
        "additionalProperties": False,
    }

    body = write(said(output_format=OutputFormat("json_schema", "n", schema)))

    assert body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {
            "type": "object",
            "properties": {"const": {"enum": ["x"]}, "$schema": {"type": "string"}},
            "additionalProperties": False,
        },
    }


def test_hints_that_gemini_has_no_word_for_are_reported() -> None:
    conversation = said(
        logit_bias={"1": 2.0}, parallel_tool_calls=False, user="u", verbosity="low", metadata={"a": "b"}, store=True
    )

    written = GEMINI.write_request(conversation, LIMITS)

    assert set(written.dropped) == {"logit_bias", "parallel_tool_calls", "user", "verbosity", "metadata", "store"}


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (said(tools=(Tool("f", custom={"type": "text"}),)), "tools[0]"),
        (said(tools=(ForeignTool("openai.chat", {"type": "web_search"}),)), "tools[0]"),
        (said(Turn("user", (Foreign("x.y", {}),))), "messages[0]"),
        (said(Turn("user", (File(Source(file_id="file-abc")),))), "messages[0]"),
        (said(Turn("user", (ToolResult("gone", ()),))), "messages[0]"),
        (said(Turn("assistant", (ToolCall("a", "f", "[1]"),))), "messages[0]"),
        (said(stop=("a", "b", "c", "d", "e", "f")), "stop"),
        (said(audio={"voice": "Kore", "format": "mp3"}), "audio.format"),
    ],
)
def test_what_changes_the_meaning_is_refused(conversation: Conversation, param: str) -> None:
    with pytest.raises(InexpressibleError) as refusal:
        GEMINI.write_request(conversation, LIMITS)

    assert refusal.value.param == param


def test_thoughts_of_another_dialect_are_not_sent_to_it() -> None:
    thought = Reasoning("Hm.", "sig", dialect="anthropic.messages")

    body = write(said(Turn("user", (Text("Hi"),)), Turn("assistant", (thought, Text("Ho")))))

    assert body["contents"][1]["parts"] == [{"text": "Ho"}]


def test_thoughts_of_another_dialect_travel_through_its_clients() -> None:
    """The client sends what it got back, bytes in the alphabet for addresses."""
    thought = Reasoning("Hm, well.", "?>~?>~?>??>~~~", "enc", "rs_1", dialect="anthropic.messages")
    asked = msgspec.structs.replace(ASKED, thinking=None)
    reply = Reply("r", "m", (Choice((thought, ToolCall("a", "f", "{}")), "tool_calls"),))

    proof = msgspec.structs.replace(thought, text="", signature="")
    in_pieces: list[Event] = [
        Started("r", "m"),
        BlockStarted(proof, 0),
        Delta(0, "Hm, "),
        Delta(0, "well."),
        Delta(0, signature=thought.signature),
        BlockEnded(0),
        ChoiceEnded("stop"),
        Ended(),
    ]

    for answer in (
        [json.loads(GEMINI.write_reply(reply, asked))],
        [json.loads(line[6:]) for line in written_stream(GEMINI, events_of(reply), ASKED).split(b"\r\n\r\n") if line],
        [json.loads(line[6:]) for line in written_stream(GEMINI, in_pieces, ASKED).split(b"\r\n\r\n") if line],
    ):
        parts = [part for chunk in answer for each in chunk["candidates"] for part in each["content"]["parts"]]
        for part in parts:
            if "thoughtSignature" in part:
                raw = base64.b64decode(part["thoughtSignature"])
                assert set(part["thoughtSignature"]) & {"+", "/"}
                part["thoughtSignature"] = base64.urlsafe_b64encode(raw).decode()
        echoed = read({"contents": [{"role": "model", "parts": parts}]})

        assert echoed.turns[0].blocks[0] == thought


# ── answers ──

ANSWER: dict[str, Any] = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Thinking.", "thought": True},
                    {"text": "Grüße an 世界."},
                    {"functionCall": {"name": "look", "args": {"at": "it"}}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"name": "look", "args": {}}},
                ],
            },
            "finishReason": "STOP",
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": "https://example.org/", "title": "Example"}}],
                "groundingSupports": [
                    {
                        "segment": {"partIndex": 1, "startIndex": 11, "endIndex": 17, "text": "世界"},
                        "groundingChunkIndices": [0],
                    }
                ],
            },
            "logprobsResult": {
                "chosenCandidates": [{"token": "G", "logProbability": -0.5}],
                "topCandidates": [{"candidates": [{"token": "G", "logProbability": -0.5}, {"token": "H"}]}],
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "toolUsePromptTokenCount": 5,
        "totalTokenCount": 155,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 70},
            {"modality": "IMAGE", "tokenCount": 20},
            {"modality": "AUDIO", "tokenCount": 10},
        ],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 36}, {"modality": "AUDIO", "tokenCount": 4}],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 20}],
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "resp1",
}
USAGE = Usage(input=39, cache_read=40, audio_input=6, image_input=20, output=20, reasoning=30)


def test_everything_that_an_answer_says_is_understood() -> None:
    reply = GEMINI.read_reply(json.dumps(ANSWER).encode())

    (choice,) = reply.choices
    thought, text, first, second = choice.blocks
    assert thought == Reasoning("Thinking.", summary=True, dialect=GEMINI.name)
    assert text == Text(
        "Grüße an 世界.", (Citation("https://example.org/", "Example", start=9, end=11, dialect=GEMINI.name),)
    )
    assert isinstance(first, ToolCall)
    assert isinstance(second, ToolCall)
    assert (first.name, first.arguments, first.signature) == ("look", '{"at":"it"}', "c2ln")
    assert first.id
    assert first.id != second.id
    assert choice.finish == "tool_calls"
    assert choice.logprobs == {
        "content": [
            {
                "token": "G",
                "logprob": -0.5,
                "bytes": [71],
                "top_logprobs": [
                    {"token": "G", "logprob": -0.5, "bytes": [71]},
                    {"token": "H", "logprob": 0.0, "bytes": [72]},
                ],
            }
        ]
    }
    assert (reply.id, reply.model, reply.usage) == ("resp1", "gemini-2.5-flash", USAGE)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("SOMETHING_NEW", "other"),
    ],
)
def test_reasons_to_end(reason: str, finish: str) -> None:
    answer = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]}

    assert GEMINI.read_reply(json.dumps(answer).encode()).choices[0].finish == finish


def test_a_question_that_was_blocked_is_an_empty_answer_of_the_filter() -> None:
    answer = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}

    assert GEMINI.read_reply(json.dumps(answer).encode()).choices == (Choice((), "content_filter"),)


def test_arguments_that_are_no_object_are_a_malformed_call() -> None:
    reply = Reply("r", "m", (Choice((ToolCall("a", "f", '{"x":'),), "tool_calls"),))

    for answer in (
        json.loads(GEMINI.write_reply(reply, ASKED)),
        json.loads(written_stream(GEMINI, events_of(reply), ASKED).split(b"\r\n\r\n")[-2][6:]),
    ):
        (candidate,) = answer["candidates"]
        assert candidate["finishReason"] == "MALFORMED_FUNCTION_CALL"
        assert '{"x":' in candidate["finishMessage"]


def test_thoughts_are_for_those_who_asked() -> None:
    reply = Reply("r", "m", (Choice((Reasoning("Hm."), Text("Ho"))),))

    hidden = json.loads(GEMINI.write_reply(reply, Conversation("m", ())))
    shown = json.loads(GEMINI.write_reply(reply, ASKED))

    assert hidden["candidates"][0]["content"]["parts"] == [{"text": "Ho"}]
    assert shown["candidates"][0]["content"]["parts"][0] == {"text": "Hm.", "thought": True}


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"candidates": 7}', b'{"candidates":[{"content":{"parts":7}}]}'])
def test_an_answer_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        GEMINI.read_reply(body)


# ── usage ──


def test_usage_of_a_whole_answer() -> None:
    raw, model = GEMINI.answer_usage(json.dumps(ANSWER).encode())

    assert raw is not None
    assert GEMINI.usage(raw) == USAGE
    assert model == "gemini-2.5-flash"
    assert GEMINI.answer_usage(b"no") == (None, "")


def test_what_was_cached_is_text_first_where_nobody_says() -> None:
    raw = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 95,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
    }

    assert GEMINI.usage(raw) == Usage(cache_read=95, audio_input=5)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (
            {"promptTokenCount": 10, "cachedContentTokenCount": 99, "candidatesTokenCount": 5},
            Usage(input=10, output=5, consistent=False),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 99},
            Usage(input=10, output=5, consistent=False),
        ),
    ],
)
def test_figures_that_contradict_each_other_are_flagged(raw: dict[str, Any], usage: Usage) -> None:
    assert GEMINI.usage(raw) == usage


@pytest.mark.parametrize("wrong", [{"promptTokenCount": "many"}, {"promptTokenCount": -1}, {"promptTokensDetails": 7}])
def test_usage_that_is_no_count_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedUsageError):
        GEMINI.usage(wrong)


# ── streams ──


def event(content: dict[str, Any], end: str = "\r\n\r\n") -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}{end}".encode()


def chunk(*parts: dict[str, Any], finish: str = "", usage: dict[str, Any] | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    more = {"usageMetadata": usage or {"promptTokenCount": 8, "totalTokenCount": 8}}
    return {"candidates": [candidate], **more, "modelVersion": "gemini-2.5-flash", "responseId": "r1"}


LAST_USAGE = {"promptTokenCount": 8, "candidatesTokenCount": 12, "thoughtsTokenCount": 3, "totalTokenCount": 23}
STREAM = (
    event(chunk({"text": "Hm.", "thought": True}))
    + event(chunk({"text": "Grüße"}))
    + b": keep-alive\n\n"
    + event(chunk({"text": " 世界"}), "\n\n")
    + event(chunk({"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}))
    + event(chunk({"text": ""}, finish="STOP", usage=LAST_USAGE))
)


@pytest.mark.parametrize("size", [0, 1, 7, 64])
def test_a_stream_is_read_however_it_is_cut(size: int) -> None:
    events = read_stream(GEMINI, STREAM, size)

    assert events[0] == Started("r1", "gemini-2.5-flash", usage=Usage(input=8))
    reply = folded(events)
    (choice,) = reply.choices
    thought, text, call = choice.blocks[:3]
    assert thought == Reasoning("Hm.", summary=True, dialect=GEMINI.name)
    assert text == Text("Grüße 世界")
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments, call.signature) == ("f", '{"a":1}', "c2ln")
    assert choice.finish == "tool_calls"
    assert reply.usage == Usage(input=8, output=12, reasoning=3)
    assert isinstance(events[-1], Ended)


def test_each_piece_is_an_event_as_soon_as_it_is_there() -> None:
    reader = GEMINI.stream_reader()

    events = [*reader.feed(event(chunk({"text": "Hi"})))]

    assert events[1:] == [BlockStarted(Text(""), 0), Delta(0, "Hi")]


def test_a_call_begins_with_its_signature() -> None:
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}
    started = [each for each in read_stream(GEMINI, event(chunk(part))) if isinstance(each, BlockStarted)]

    assert [getattr(each.block, "signature", "") for each in started] == ["c2ln"]


def test_a_signed_text_ends_its_block() -> None:
    stream = event(chunk({"text": "a", "thoughtSignature": "eA=="})) + event(
        chunk({"text": "b", "thoughtSignature": "eQ=="}, finish="STOP")
    )

    assert folded(read_stream(GEMINI, stream)).choices[0].blocks == (
        Text("a", signature="eA=="),
        Text("b", signature="eQ=="),
    )


def test_a_reason_on_every_event_ends_nothing_early() -> None:
    stream = event(chunk({"text": "a"}, finish="STOP")) + event(chunk({"text": "b"}, finish="STOP", usage=LAST_USAGE))

    reply = folded(read_stream(GEMINI, stream))

    assert reply.choices == (Choice((Text("ab"),)),)
    assert reply.usage == Usage(input=8, output=12, reasoning=3)


def test_citations_at_the_end_of_a_stream_point_into_the_whole_text() -> None:
    last = chunk({"text": "世界"}, finish="STOP")
    last["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://example.org/", "title": "T"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 3, "endIndex": 9, "text": "世界"}, "groundingChunkIndices": [0]}
        ],
    }

    early = chunk({"text": "ü "})
    early["candidates"][0]["groundingMetadata"] = last["candidates"][0]["groundingMetadata"]

    reply = folded(read_stream(GEMINI, event(early) + event(last)))

    assert reply.choices[0].blocks == (
        Text("ü 世界", (Citation("https://example.org/", "T", start=2, end=4, dialect=GEMINI.name),)),
    )


def test_a_stream_that_was_cut_off_does_not_end() -> None:
    events = read_stream(GEMINI, event(chunk({"text": "Hal"})))

    assert not any(isinstance(each, (Ended, ChoiceEnded)) for each in events)


def test_a_blocked_question_ends_its_stream() -> None:
    events = read_stream(GEMINI, event({"promptFeedback": {"blockReason": "SAFETY"}, "responseId": "r"}))

    assert events == [Started("r", ""), ChoiceEnded("content_filter"), Ended(None)]


def test_an_error_inside_a_stream() -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}

    events = read_stream(
        GEMINI, event(chunk({"text": "a"})) + event(error) + event(chunk({"text": "b"}, finish="STOP"))
    )

    assert events[-1] == Failed("The model is overloaded.", ErrorKind.OVERLOADED)


def test_a_stream_that_came_as_a_list_is_read() -> None:
    body = json.dumps([chunk({"text": "a"}), chunk({"text": "b"}, finish="STOP")]).encode()

    assert folded(read_stream(GEMINI, body, 5)).choices == (Choice((Text("ab"),)),)


def test_a_stream_is_written_as_gemini_would() -> None:
    events: list[Event] = [
        Started("r1", "m", usage=Usage(input=3)),
        BlockStarted(Text(""), 0),
        Delta(0, "Hi"),
        BlockEnded(0),
        BlockStarted(ToolCall("c1", "f"), 1),
        Delta(1, '{"a"'),
        Delta(1, ":1}"),
        BlockEnded(1),
        ChoiceEnded("tool_calls"),
        Ended(Usage(input=3, output=5)),
    ]

    stream = written_stream(GEMINI, events, ASKED)

    chunks = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\r\n\r\n") if line]
    assert [each["candidates"][0]["content"]["parts"] for each in chunks] == [
        [{"text": "Hi"}],
        [{"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}}],
        [{"text": ""}],
    ]
    assert [each["candidates"][0].get("finishReason") for each in chunks] == [None, None, "STOP"]
    assert chunks[0]["usageMetadata"]["promptTokenCount"] == 3
    assert chunks[-1]["usageMetadata"]["totalTokenCount"] == 8
    assert {each["responseId"] for each in chunks} == {"r1"}


def test_an_error_is_written_in_googles_words() -> None:
    told = json.loads(GEMINI.stream_writer(ASKED).write(Failed("Too much.", ErrorKind.RATE_LIMITED))[6:])

    assert told["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert told["error"]["code"] == 429


# ── the scanner ──


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
def test_a_client_gets_the_bytes_of_the_provider(size: int) -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    before = b"".join(scanner.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size))
    learned = scanner.usage_raw
    rest = scanner.finish()

    assert before + rest == STREAM
    # What looks like the end waits for the ledger, which by then knows what it costs.
    assert rest.startswith(b"data: ")
    assert b"finishReason" in rest
    assert learned == LAST_USAGE
    assert scanner.usage_raw == LAST_USAGE
    assert scanner.response_model == "gemini-2.5-flash"
    assert scanner.first_token
    assert scanner.error is None


def test_nothing_else_is_held_back() -> None:
    scanner = GEMINI.scanner(strip_usage=False)
    first, last = event(chunk({"text": "a"})), event(chunk({"text": "b"}, finish="STOP"))

    assert scanner.feed(first) == first
    assert scanner.feed(last) == b""
    assert scanner.feed(b": ping\n\n") == b""
    assert scanner.feed(first) == last + b": ping\n\n" + first


def test_an_error_in_a_stream_is_noticed() -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    scanner.feed(event({"error": {"code": 500, "message": "no", "status": "INTERNAL"}}))

    assert scanner.error is not None
    assert scanner.error["message"] == "no"


def test_a_stream_without_usage_is_estimated() -> None:
    scanner = GEMINI.scanner(strip_usage=False)

    scanner.feed(event({"candidates": [{"content": {"parts": [{"text": "x" * 4000}]}}]}))

    assert 800 <= scanner.estimated_output(4.0) <= 1100


# ── the head ──


def head(body: dict[str, Any] | bytes) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GEMINI.read_head(raw, model="m", stream=True)


def test_the_head_is_read_from_path_and_body() -> None:
    found = head(EVERYTHING)

    assert (found.model, found.stream, found.choices, found.thinking_budget) == ("m", True, 2, 1024)
    assert found.output_cap(GEMINI.output_cap_fields) == 500
    assert found.asked_for_usage


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"generationConfig":{"maxOutputTokens":1,"maxOutputTokens":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"maxOutputTokens":1,"maxOutputToken\\u0073":9}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{},"generation_config":{"maxOutputTokens":9}}', "generationConfig"),
        (b'{"generationConfig":{"candidateCount":1},"generationConfig":{"candidateCount":9}}', "generationConfig"),
        (
            b'{"generationConfig":{"thinkingConfig":{"thinkingBudget":1,"thinkingBudget":9}}}',
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (b'{"generationConfig":{"maxOutputTokens":"9"}}', "generationConfig.maxOutputTokens"),
        (b'{"generationConfig":{"candidateCount":99999}}', "generationConfig.candidateCount"),
        (b'{"generationConfig":7}', "generationConfig"),
        (b"[]", ""),
        (b"{", None),
    ],
)
def test_a_head_that_can_be_taken_in_two_ways_is_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        head(body)

    assert refusal.value.param == param


def test_names_inside_texts_and_tools_are_no_repetition() -> None:
    text = '"generationConfig" {"maxOutputTokens": 1}'
    args = {"maxOutputTokens": 1, "generationConfig": {"candidateCount": 3}}
    parts = [{"text": text}, {"functionCall": {"name": "f", "args": args}}]

    assert head({"contents": [{"parts": parts}], "generationConfig": {"maxOutputTokens": 5}}).max_tokens == 5


def test_a_path_without_a_model_is_refused() -> None:
    with pytest.raises(MalformedBodyError):
        GEMINI.read_head(b"{}")


@pytest.mark.parametrize(
    ("body", "capped"),
    [
        ({}, {"generationConfig": {"maxOutputTokens": 50}}),
        ({"generationConfig": None}, {"generationConfig": {"maxOutputTokens": 50}}),
        ({"generationConfig": {"maxOutputTokens": 20}}, {"generationConfig": {"maxOutputTokens": 20}}),
        ({"generation_config": {"max_output_tokens": 80}}, {"generation_config": {"max_output_tokens": 50}}),
        (
            {"generationConfig": {"topP": 1, "maxOutputTokens": 0}},
            {"generationConfig": {"topP": 1, "maxOutputTokens": 50}},
        ),
    ],
)
def test_output_is_capped_where_it_says_so(body: dict[str, Any], capped: dict[str, Any]) -> None:
    assert json.loads(GEMINI.with_output_cap(json.dumps(body).encode(), GEMINI.output_cap_fields, 50)) == capped


def test_a_body_that_repeats_the_model_names_the_providers() -> None:
    body = b'{"model": "models/alias", "contents": [{"role": "model"}]}'
    plain_body = b'{"contents":[{"role":"model","parts":[{"text":"the \\"model\\": x"}]}]}'

    assert json.loads(GEMINI.with_model(body, head(body), "gemini-x"))["model"] == "models/gemini-x"
    assert GEMINI.with_model(plain_body, head(plain_body), "gemini-x") == plain_body


# ── errors ──


def test_our_errors_are_in_googles_envelope() -> None:
    error = WireError(429, "Too many requests.", "rate_limit_error", "rate_limit_exceeded", "contents")

    told = json.loads(GEMINI.error_body(error))["error"]

    assert (told["code"], told["status"], told["message"]) == (429, "RESOURCE_EXHAUSTED", "Too many requests.")
    assert told["details"][0]["reason"] == "rate_limit_exceeded"
    assert told["details"][1]["fieldViolations"][0]["field"] == "contents"
    assert json.loads(GEMINI.error_event(error).strip().removeprefix(b"data: ")) == {"error": told}


def test_tokens_of_images_in_an_answer_are_known_as_such() -> None:
    raw = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 1300,
        "totalTokenCount": 1310,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}, {"modality": "TEXT", "tokenCount": 10}],
    }

    usage = GEMINI.usage(raw)

    assert usage == Usage(input=10, output=1300, units=(("image_token", 1290),))
    assert GEMINI.usage({**raw, "candidatesTokenCount": 5}) == Usage(input=10, output=5, consistent=False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_images_in_an_answer_pass_on_with_what_they_cost(stream: bool) -> None:
    image = Image(Source(data="aGVsbG8=", media_type="image/png"))
    reply = Reply(
        "r", "m", (Choice((Text("Here."), image), "stop"),), Usage(output=1300, units=(("image_token", 1290),))
    )
    asked = Conversation("m", (), stream=stream)

    if stream:
        read = folded(read_stream(GEMINI, written_stream(GEMINI, events_of(reply), asked)))
    else:
        read = GEMINI.read_reply(GEMINI.write_reply(reply, asked))

    assert (read.usage, read.choices[0].blocks[1]) == (reply.usage, image)
