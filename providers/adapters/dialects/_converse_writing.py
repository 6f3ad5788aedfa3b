"""Writes requests of Bedrock's Converse from the common form.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html. What only some of its models take
(thinking, top-k) goes into `additionalModelRequestFields`, which Bedrock hands to the model as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, groupby
from operator import attrgetter

import msgspec

from providers.adapters.dialects._messages_blocks import read_arguments
from providers.adapters.dialects._messages_models import traits_of
from providers.adapters.dialects._messages_thinking import plan
from providers.adapters.dialects._messages_writing import JSON_ONLY
from providers.adapters.dialects._thinking import effort_of
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.conversation import (
    Block,
    CacheHint,
    Conversation,
    File,
    ForeignTool,
    Image,
    Reasoning,
    Refusal,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
)
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

DIALECT = "bedrock.converse"
IMAGE_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
FILE_FORMATS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
TIERS = frozenset({"default", "flex", "priority", "reserved"})
_NOT_IN_A_FILE_NAME = re.compile(r"[^A-Za-z0-9 \-()\[\]]+")


def write_request(conversation: Conversation, limits: Limits) -> Written:
    """Raises InexpressibleError for what must not be left out."""
    return _Writer(conversation, limits).written()


def inexpressible(param: str, what: str) -> InexpressibleError:
    return InexpressibleError(f"Bedrock's Converse has no word for {what} (`{param}`).", param=param)


class _Writer:
    """Writes one request."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self._asked = conversation
        self._limits = limits
        self._thinks_in_tokens = "claude" in limits.model
        self._dropped: list[str] = []

    def written(self) -> Written:
        self._refuse()
        system, turns = self._split()
        body: JSONObject = {"messages": [message for turn in turns if (message := self._message(turn))["content"]]}
        if system:
            body["system"] = system
        inference, additional = self._inference()
        if tools := self._tools():
            body["toolConfig"] = tools
        if inference:
            body["inferenceConfig"] = inference
        if additional:
            body["additionalModelRequestFields"] = additional
        body |= self._settings()
        self._dropped += [name for name, value in self._unsaid().items() if not (value is None or value is False)]
        return Written(msgspec.json.encode(body), tuple(dict.fromkeys(self._dropped)))

    def _refuse(self) -> None:
        asked = self._asked
        if asked.choices is not None and asked.choices > 1:
            raise inexpressible("n", "more than one answer")
        if asked.audio is not None or not set(asked.modalities) <= {"text"}:
            raise inexpressible("modalities", "answers other than text")

    # ── turns ──

    def _split(self) -> tuple[list[JSONObject], list[Turn]]:
        """The system's blocks, and the turns of user and assistant in alternation."""
        turns = list(self._asked.turns)
        leading: list[Turn] = []
        while len(leading) < len(turns) and turns[len(leading)].role in {"system", "developer"}:
            leading.append(turns[len(leading)])
        del turns[: len(leading)]
        if not turns and leading:
            # There is no conversation without somebody who speaks.
            turns.append(msgspec.structs.replace(leading.pop(), role="user"))
        system = [written for turn in leading for block in turn.blocks for written in self._system_block(block)]
        if self._asked.output_format is not None and self._asked.output_format.kind == "json":
            self._dropped.append("response_format")
            system.append({"text": JSON_ONLY})
        return system, list(_alternating(turns))

    def _system_block(self, block: Block) -> Iterator[JSONObject]:
        if not isinstance(block, Text):
            raise inexpressible("messages", "something other than text in a system message")
        if block.text:
            yield {"text": block.text}
            yield from _cache_point(block.cache)

    def _message(self, turn: Turn) -> JSONObject:
        content = [written for block in turn.blocks for written in self._block(block)]
        # Results stand before everything else, or the model does not see that its calls were answered.
        content.sort(key=lambda block: "toolResult" not in block)
        return {"role": turn.role, "content": content}

    def _block(self, block: Block) -> Iterator[JSONObject]:
        match block:
            case Text() | Refusal():
                if block.text:
                    yield {"text": block.text}
            case Image() | File():
                yield _medium(block)
            case ToolCall():
                if block.custom:
                    raise inexpressible("messages", f"a call of the custom tool `{block.name}`")
                given = read_arguments(block.arguments)
                yield {"toolUse": {"toolUseId": block.id, "name": block.name, "input": given}}
            case ToolResult():
                yield {"toolResult": self._result(block)}
            case Reasoning():
                yield from self._thoughts(block)
            case _:
                raise inexpressible("messages", f"this content ({type(block).__name__.lower()})")
        yield from _cache_point(getattr(block, "cache", None))

    def _result(self, block: ToolResult) -> JSONObject:
        content = [written for part in block.content for written in self._block(part)]
        return {
            "toolUseId": block.call_id,
            "content": content or [{"text": ""}],
            **({"status": "error"} if block.is_error else {}),
        }

    def _thoughts(self, block: Reasoning) -> Iterator[JSONObject]:
        """Proofs of another provider prove nothing here, and thoughts without one are refused."""
        if block.dialect != DIALECT:
            return
        if block.encrypted:
            yield {"reasoningContent": {"redactedContent": block.encrypted}}
        elif block.text:
            signature = {"signature": block.signature} if block.signature else {}
            yield {"reasoningContent": {"reasoningText": {"text": block.text, **signature}}}

    # ── tools ──

    def _tools(self) -> JSONObject:
        asked = self._asked
        mode = asked.tool_choice.mode if asked.tool_choice else ""
        allowed = asked.tool_choice.allowed if asked.tool_choice else ()
        tools = [written for tool in asked.tools for written in self._tool(tool, allowed)]
        called = {block.name for turn in asked.turns for block in turn.blocks if isinstance(block, ToolCall)}
        if mode == "none":
            if called:
                raise inexpressible("tool_choice", "that no tool may be called, after some have been")
            return {}
        if not tools:
            # A conversation with calls must declare tools, also where the caller does not any more.
            return {"tools": [_declared(name) for name in sorted(called)]} if called else {}
        choice = self._tool_choice(mode)
        return {"tools": tools, **({"toolChoice": choice} if choice else {})}

    def _tool_choice(self, mode: str) -> JSONObject:
        if mode == "tool" and self._asked.tool_choice is not None:
            return {"tool": {"name": self._asked.tool_choice.name}}
        return {"required": {"any": {}}, "auto": {"auto": {}}}.get(mode, {})

    def _tool(self, tool: Tool | ForeignTool, allowed: tuple[str, ...]) -> Iterator[JSONObject]:
        if isinstance(tool, ForeignTool):
            raise inexpressible("tools", f"a tool that only {tool.dialect} knows")
        if tool.custom is not None:
            raise inexpressible("tools", f"the custom tool `{tool.name}`, which takes free text")
        if allowed and tool.name not in allowed:
            return
        if tool.strict:
            self._dropped.append("tools.strict")
        description = {"description": tool.description} if tool.description else {}
        schema = {"json": {"type": "object", **(tool.parameters or {"properties": {}})}}
        yield {"toolSpec": {"name": tool.name, **description, "inputSchema": schema}}
        yield from _cache_point(tool.cache)

    # ── settings ──

    def _inference(self) -> tuple[JSONObject, JSONObject]:
        """What all models take, and what goes to the model as it is."""
        asked = self._asked
        inference, additional = self._thinking()
        thinks = "thinking" in additional and additional["thinking"].get("type") != "disabled"
        for name, value in (("temperature", asked.temperature), ("topP", asked.top_p)):
            if value is None:
                continue
            if thinks or (name == "temperature" and value > 1):
                self._dropped.append("top_p" if name == "topP" else name)
            if not thinks:
                inference[name] = min(value, 1)
        if asked.stop:
            inference["stopSequences"] = asked.stop
        if asked.top_k is not None and self._thinks_in_tokens and not thinks:
            additional["top_k"] = asked.top_k
        elif asked.top_k is not None:
            self._dropped.append("top_k")
        return inference, additional

    def _thinking(self) -> tuple[JSONObject, JSONObject]:
        asked, limits = self._asked, self._limits
        if not self._thinks_in_tokens:
            cap = asked.max_output_tokens
            inference = {"maxTokens": min(cap, limits.max_output_tokens or cap)} if cap is not None else {}
            effort = effort_of(asked.thinking) if asked.thinking else ""
            if effort and "gpt-oss" in limits.model and effort in {"low", "medium", "high"}:
                return inference, {"reasoning_effort": effort}
            if effort not in {"", "none"}:
                self._dropped.append("reasoning_effort")
            return inference, {}
        planned = plan(asked, limits, traits_of(limits.model))
        self._dropped += planned.dropped
        additional: JSONObject = {"thinking": planned.thinking} if planned.thinking else {}
        if planned.effort:
            additional["output_config"] = {"effort": planned.effort}
        return {"maxTokens": planned.max_tokens}, additional

    def _settings(self) -> JSONObject:
        asked = self._asked
        settings: JSONObject = {}
        shape = asked.output_format
        if shape is not None and shape.kind == "json_schema":
            schema = msgspec.json.encode(shape.schema or {"type": "object"}).decode()
            description = {"description": shape.description} if shape.description else {}
            structure = {"jsonSchema": {"name": shape.name or "answer", "schema": schema, **description}}
            settings["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
        if asked.metadata:
            settings["requestMetadata"] = asked.metadata
        if asked.service_tier in TIERS:
            settings["serviceTier"] = {"type": asked.service_tier}
        elif asked.service_tier not in {"", "auto"}:
            self._dropped.append("service_tier")
        return settings

    def _unsaid(self) -> JSONObject:
        """What there is no word for, by the caller's names."""
        asked = self._asked
        return {
            # Zeros and empty texts have no effect.
            "presence_penalty": asked.presence_penalty or None,
            "frequency_penalty": asked.frequency_penalty or None,
            "seed": asked.seed,
            "logprobs": asked.logprobs,
            "top_logprobs": asked.top_logprobs,
            "logit_bias": asked.logit_bias or None,
            "verbosity": asked.verbosity or None,
            "user": asked.user or None,
            "store": asked.store,
            "prompt_cache_key": asked.cache_key or None,
            # Calls one by one is a wish of the caller; all at once is how models are.
            "parallel_tool_calls": True if asked.parallel_tool_calls is False else None,
            **asked.extra,
        }


def _alternating(turns: list[Turn]) -> Iterator[Turn]:
    """Turns of one role as one; system turns among them as marked texts of the user."""
    spoken = (_marked(turn) if turn.role in {"system", "developer"} else turn for turn in turns)
    for role, same in groupby(spoken, key=attrgetter("role")):
        first, *others = same
        yield Turn(role, tuple(chain.from_iterable(turn.blocks for turn in (first, *others)))) if others else first


def _marked(turn: Turn) -> Turn:
    text = "\n\n".join(block.text for block in turn.blocks if isinstance(block, Text))
    return Turn("user", (Text(f"<system_message>\n{text}\n</system_message>"),))


def _cache_point(hint: CacheHint | None) -> Iterator[JSONObject]:
    if hint is not None:
        yield {"cachePoint": {"type": "default", **({"ttl": hint.ttl} if hint.ttl == "1h" else {})}}


def _declared(name: str) -> JSONObject:
    return {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object", "properties": {}}}}}


def _medium(block: Image | File) -> JSONObject:
    source = block.source
    if isinstance(block, File) and block.text:
        return _document("txt", block.name, {"text": block.text})
    if not source.data:
        raise inexpressible("messages", "a file or image that is not in the request itself")
    if isinstance(block, Image):
        kind = IMAGE_FORMATS.get(source.media_type)
        if kind is None:
            raise inexpressible("messages", f"an image of the type '{source.media_type}'")
        return {"image": {"format": kind, "source": {"bytes": source.data}}}
    kind = FILE_FORMATS.get(source.media_type)
    if kind is None:
        raise inexpressible("messages", f"a file of the type '{source.media_type}'")
    return _document(kind, block.name, {"bytes": source.data})


def _document(kind: str, name: str, source: JSONObject) -> JSONObject:
    # It takes few characters, and no two white spaces in a row.
    plain = " ".join(_NOT_IN_A_FILE_NAME.sub(" ", name).split()) or "document"
    return {"document": {"format": kind, "name": plain[:200], "source": source}}
