"""Gemini's generateContent: what is written reads the same, and what requests say is understood."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
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
    Reply,
    Started,
    events_of,
)
from providers.adapters.errors import InexpressibleError, MalformedBodyError
from tests.providers.dialects.gemini_scene import ASKED, EVERYTHING, GEMINI, read
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
