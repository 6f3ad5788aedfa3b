"""What is asked of a chat model, in words that every chat protocol can be read into and written from.

Nothing that two protocols can both say is lost here. What only one can say stays in `extra`, or in a `Foreign` block,
under the name of its dialect; a writer of another dialect drops and reports it, or refuses it if its absence would
change the meaning.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from providers.adapters.types import JSONObject


class CacheHint(msgspec.Struct, frozen=True):
    """Everything up to here is worth caching at the provider."""

    ttl: str = ""
    """`5m` or `1h`; empty: the provider's usual."""


class Citation(msgspec.Struct, frozen=True):
    """Where a piece of an answer's text comes from."""

    url: str = ""
    title: str = ""
    cited_text: str = ""
    start: int | None = None
    """Position of the supported text in its block, in characters."""
    end: int | None = None
    raw: JSONObject = {}
    """As its own dialect says it, for the way back into the same one."""
    dialect: str = ""


class Text(msgspec.Struct, frozen=True, tag="text"):
    text: str
    citations: tuple[Citation, ...] = ()
    cache: CacheHint | None = None
    signature: str = ""
    """A provider's proof that belongs to this block, as Gemini's `thoughtSignature` may."""


class Source(msgspec.Struct, frozen=True):
    """Where the bytes of an image, a sound or a file are: exactly one of `data`, `url` and `file_id` is set."""

    data: str = ""
    """Base64."""
    url: str = ""
    file_id: str = ""
    """Of a file stored at the provider."""
    media_type: str = ""
    """Such as `image/png`; empty: unknown."""


class Image(msgspec.Struct, frozen=True, tag="image"):
    source: Source
    detail: str = ""
    """`low`, `high`, `auto` or empty."""
    cache: CacheHint | None = None


class Audio(msgspec.Struct, frozen=True, tag="audio"):
    source: Source
    transcript: str = ""
    id: str = ""
    """Of a sound that the model made before, at the provider."""


class File(msgspec.Struct, frozen=True, tag="file"):
    """A document, most often a PDF."""

    source: Source
    name: str = ""
    text: str = ""
    """Where the document is plain text; `source` is empty then."""
    citations: bool = False
    """The model shall cite from it."""
    cache: CacheHint | None = None


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    id: str
    name: str
    arguments: str = ""
    """JSON as the model wrote it, perhaps incomplete; free text for a custom tool."""
    custom: bool = False
    signature: str = ""
    cache: CacheHint | None = None


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    call_id: str
    content: tuple[Text | Image | File | Audio, ...] = ()
    name: str = ""
    """Of the tool; some protocols need it. Empty: find it by `call_id`, `Conversation.tool_names` has it."""
    is_error: bool = False
    custom: bool = False
    cache: CacheHint | None = None


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """What the model thought. `signature` and `encrypted` are the provider's own and go back to it unchanged."""

    text: str = ""
    signature: str = ""
    encrypted: str = ""
    """Thoughts that only the provider can read: Anthropic's redacted thinking, OpenAI's encrypted content."""
    id: str = ""
    summary: bool = False
    """`text` is a summary of the thoughts."""
    dialect: str = ""
    """Whose `signature` and `encrypted` these are: another dialect must not be sent them."""


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    text: str


class Foreign(msgspec.Struct, frozen=True, tag="foreign"):
    """A block that only `dialect` has a word for, such as the result of a tool that the provider ran."""

    dialect: str
    raw: JSONObject


Block = Text | Image | Audio | File | ToolCall | ToolResult | Reasoning | Refusal | Foreign
Role = Literal["system", "developer", "user", "assistant"]


class Turn(msgspec.Struct, frozen=True):
    """One message. Results of tools are blocks of a `user` turn, wherever their protocol puts them."""

    role: Role
    blocks: tuple[Block, ...]
    name: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A function that the caller runs for the model."""

    name: str
    description: str = ""
    parameters: JSONObject | None = None
    """JSON Schema; None: it takes no arguments, or is `custom`."""
    strict: bool | None = None
    custom: JSONObject | None = None
    """The format of the free text that a custom tool takes; None: an ordinary function."""
    cache: CacheHint | None = None


class ForeignTool(msgspec.Struct, frozen=True):
    """A tool that the provider runs, or that only `dialect` knows."""

    dialect: str
    raw: JSONObject


class ToolChoice(msgspec.Struct, frozen=True):
    mode: Literal["auto", "none", "required", "tool"]
    name: str = ""
    """With `tool`: which."""
    allowed: tuple[str, ...] = ()
    """Only these may be called; empty: all."""


class OutputFormat(msgspec.Struct, frozen=True):
    """The shape that the text of the answer must have."""

    kind: Literal["text", "json", "json_schema"]
    name: str = ""
    schema: JSONObject | None = None
    description: str = ""
    strict: bool | None = None


class Thinking(msgspec.Struct, frozen=True):
    """How much the model shall think before it answers. All absent: as the model likes."""

    effort: str = ""
    """`none`, `minimal`, `low`, `medium`, `high`, `xhigh`."""
    budget_tokens: int | None = None
    """0: not at all; -1: as much as it likes."""
    visible: bool | None = None
    """Whether the thoughts, or a summary of them, come with the answer."""
    summary: str = ""
    """`auto`, `concise` or `detailed`."""


class Conversation(msgspec.Struct, frozen=True):
    """A chat request. Absent settings are None: the provider's default holds."""

    model: str
    turns: tuple[Turn, ...]
    stream: bool = False
    include_usage: bool = False
    """The caller wants usage in the stream, where its protocol lets it choose."""
    tools: tuple[Tool | ForeignTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    choices: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    output_format: OutputFormat | None = None
    thinking: Thinking | None = None
    verbosity: str = ""
    modalities: tuple[str, ...] = ()
    """`text`, `audio`, `image`; empty: text."""
    audio: JSONObject | None = None
    """OpenAI's `{"voice", "format"}` of spoken answers."""
    user: str = ""
    metadata: dict[str, str] | None = None
    service_tier: str = ""
    store: bool | None = None
    cache_key: str = ""
    legacy_functions: bool = False
    """The caller knows functions and no tools: calls of them come to it in their older shape."""
    extra: dict[str, Any] = {}
    """Top-level fields that only `dialect` has a word for."""
    dialect: str = ""
    """In which it was read."""

    def tool_names(self) -> dict[str, str]:
        """The names of the tools that were called, by the ids of the calls; of two with one id, the first."""
        calls = [block for turn in self.turns for block in turn.blocks if isinstance(block, ToolCall)]
        return {call.id: call.name for call in reversed(calls)}
