"""Writes requests of Anthropic's Messages from the common form.

What others can say and this format cannot is adapted where the answer stays the same in kind, and said in `dropped`:
system turns in the middle of the conversation become marked texts of the user unless the model takes them where they
are; efforts become budgets for models that take those; several turns of one role become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

import msgspec

from providers.adapters.dialects._messages_blocks import DIALECT, BlockWriter, inexpressible, write_cache, write_text
from providers.adapters.dialects._messages_models import ModelTraits, traits_of
from providers.adapters.dialects._messages_thinking import Plan, plan
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.conversation import (
    Conversation,
    ForeignTool,
    OutputFormat,
    Refusal,
    Text,
    Tool,
    ToolCall,
    Turn,
)
from providers.adapters.types import JSONObject

JSON_ONLY = "Answer with one JSON object and nothing else."
USER_ID_MAX = 256
MIN_TOP_P = 0.95
"""While the model thinks."""


def write_request(conversation: Conversation, limits: Limits) -> Written:
    """Raises InexpressibleError for what must not be left out."""
    return _Writer(conversation, limits).written()


class _Writer:
    """Writes one request."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self._asked = conversation
        self._limits = limits
        self._traits: ModelTraits = traits_of(limits.model)
        self._native = conversation.dialect == DIALECT
        self._blocks = BlockWriter(native=self._native)
        self._dropped: list[str] = []

    def written(self) -> Written:
        self._refuse()
        asked = self._asked
        thinking = plan(asked, self._limits, self._traits)
        self._dropped += thinking.dropped
        system, messages = self._conversation()
        body: JSONObject = {"model": self._limits.model, "max_tokens": thinking.max_tokens}
        if system:
            body["system"] = system
        body["messages"] = messages
        body |= self._tools()
        if thinking.thinking:
            body["thinking"] = thinking.thinking
        if config := self._output_config(thinking):
            body["output_config"] = config
        body |= self._sampling(thinking)
        body |= self._settings()
        if asked.stream:
            body["stream"] = True
        dropped = dict.fromkeys([*self._dropped, *self._blocks.dropped])
        return Written(msgspec.json.encode(body), tuple(dropped))

    def _refuse(self) -> None:
        asked = self._asked
        if asked.choices is not None and asked.choices > 1:
            raise inexpressible("n", "more than one answer")
        if asked.audio is not None or not set(asked.modalities) <= {"text"}:
            raise inexpressible("modalities", "answers other than text")
        if any(not stop.strip() for stop in asked.stop):
            raise inexpressible("stop", "a stop sequence of white space alone")

    # ── turns ──

    def _conversation(self) -> tuple[Any, list[JSONObject]]:
        turns = list(self._asked.turns)
        leading: list[Turn] = []
        while len(leading) < len(turns) and turns[len(leading)].role in {"system", "developer"}:
            leading.append(turns[len(leading)])
        del turns[: len(leading)]
        if not turns and leading:
            # There is no conversation without somebody who speaks.
            turns.append(msgspec.structs.replace(leading.pop(), role="user"))
        merged = _merged(self._placed(turns))
        if merged and merged[-1].role == "assistant":
            merged[-1] = _without_trailing_space(merged[-1])
        messages = [self._message(turn) for turn in merged]
        return self._system(leading), [message for message in messages if message["content"]]

    def _system(self, leading: list[Turn]) -> Any:
        blocks = [write_text(block) for turn in leading for block in _texts(turn)]
        if self._asked.output_format is not None and self._asked.output_format.kind == "json":
            # There is no such mode; its callers have to mention JSON in the conversation anyway.
            self._dropped.append("response_format")
            blocks.append({"type": "text", "text": JSON_ONLY})
        blocks = [block for block in blocks if block["text"]]
        return blocks[0]["text"] if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} else blocks

    def _placed(self, turns: list[Turn]) -> Iterator[Turn]:
        """`turns` with system turns where the model takes them, and as marked texts of the user elsewhere."""
        for number, turn in enumerate(turns):
            if turn.role not in {"system", "developer"}:
                yield turn
                continue
            before = turns[number - 1].role if number else ""
            behind = turns[number + 1].role if number + 1 < len(turns) else "assistant"
            if self._traits.system_turns and before == "user" and behind == "assistant":
                yield Turn("system", tuple(_texts(turn)))
            else:
                text = "\n\n".join(block.text for block in _texts(turn))
                yield Turn("user", (Text(f"<system_message>\n{text}\n</system_message>"),))

    def _message(self, turn: Turn) -> JSONObject:
        blocks = self._blocks.blocks(turn.blocks)
        if turn.role == "user":
            # Results stand before everything else, or the API does not see that the calls were answered.
            blocks.sort(key=lambda block: block.get("type") != "tool_result")
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
            return {"role": turn.role, "content": blocks[0]["text"]}
        return {"role": turn.role, "content": blocks}

    # ── tools ──

    def _tools(self) -> JSONObject:
        asked = self._asked
        allowed = asked.tool_choice.allowed if asked.tool_choice else ()
        tools = [self._tool(tool) for tool in asked.tools if not allowed or _name(tool) in allowed]
        if not tools:
            return self._tools_of_calls()
        choice = self._tool_choice()
        return {"tools": tools, **({"tool_choice": choice} if choice else {})}

    def _tools_of_calls(self) -> JSONObject:
        """A conversation with calls must declare tools, also where nothing may be called any more."""
        names = dict.fromkeys(
            block.name for turn in self._asked.turns for block in turn.blocks if isinstance(block, ToolCall)
        )
        if not names or self._native:
            return {}
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
        return {"tools": tools, "tool_choice": {"type": "none"}}

    def _tool(self, tool: Tool | ForeignTool) -> JSONObject:
        if isinstance(tool, ForeignTool):
            if tool.dialect != DIALECT:
                raise inexpressible("tools", f"a tool that only {tool.dialect} knows")
            return tool.raw
        if tool.custom is not None:
            raise inexpressible("tools", f"the custom tool `{tool.name}`, which takes free text")
        return {
            "name": tool.name,
            **({"description": tool.description} if tool.description else {}),
            "input_schema": _input_schema(tool.parameters),
            **({"strict": tool.strict} if tool.strict is not None else {}),
            **write_cache(tool.cache),
        }

    def _tool_choice(self) -> JSONObject:
        asked = self._asked
        choice: JSONObject = {}
        if asked.tool_choice is not None:
            mode = asked.tool_choice.mode
            choice = {"type": {"required": "any"}.get(mode, mode)}
            if mode == "tool":
                choice["name"] = asked.tool_choice.name
        if asked.parallel_tool_calls is None or choice.get("type") == "none":
            return choice
        return {**(choice or {"type": "auto"}), "disable_parallel_tool_use": not asked.parallel_tool_calls}

    # ── settings ──

    def _output_config(self, thinking: Plan) -> JSONObject:
        config: JSONObject = dict(self._extra().get("output_config") or {})
        if thinking.effort:
            config["effort"] = thinking.effort
        shape = self._asked.output_format
        if shape is not None and shape.kind == "json_schema":
            config["format"] = {"type": "json_schema", "schema": self._schema(shape)}
        return config

    def _schema(self, shape: OutputFormat) -> JSONObject:
        schema = shape.schema or {"type": "object"}
        return schema if self._native else _closed(schema)

    def _sampling(self, thinking: Plan) -> JSONObject:
        """Of what is not taken, the values without an effect are left out and no loss."""
        asked, traits = self._asked, self._traits
        free = traits.samples and not thinking.thinks
        settings: JSONObject = {}
        if (temperature := asked.temperature) is not None:
            if temperature != 1 and (temperature > 1 or not free):
                self._dropped.append("temperature")
            if free:
                settings["temperature"] = min(temperature, 1)
        if (top_p := asked.top_p) is not None:
            if traits.samples and (free or top_p >= MIN_TOP_P) and not (traits.samples_one_way and settings):
                settings["top_p"] = top_p
            elif top_p != 1:
                self._dropped.append("top_p")
        if asked.top_k is not None:
            if free:
                settings["top_k"] = asked.top_k
            else:
                self._dropped.append("top_k")
        return settings

    def _settings(self) -> JSONObject:
        asked = self._asked
        settings: JSONObject = {}
        if asked.stop:
            settings["stop_sequences"] = asked.stop
        if asked.user:
            # It refuses what looks like a person's address.
            if len(asked.user) > USER_ID_MAX or "@" in asked.user:
                self._dropped.append("user")
            else:
                settings["metadata"] = {"user_id": asked.user}
        if asked.service_tier in {"auto", "default"}:
            settings["service_tier"] = "auto" if asked.service_tier == "auto" else "standard_only"
        elif asked.service_tier:
            self._dropped.append("service_tier")
        self._dropped += [name for name, value in self._unsaid().items() if not (value is None or value is False)]
        extra = {name: value for name, value in self._extra().items() if name not in {"output_config", "thinking"}}
        return {**settings, **extra}

    def _unsaid(self) -> dict[str, Any]:
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
            "metadata": asked.metadata or None,
            "store": asked.store,
            "prompt_cache_key": asked.cache_key or None,
            **({} if self._native else asked.extra),
        }

    def _extra(self) -> dict[str, Any]:
        return self._asked.extra if self._native else {}


def _merged(turns: Iterator[Turn]) -> list[Turn]:
    """Consecutive turns of one role as one."""
    merged: list[Turn] = []
    for role, same in groupby(turns, key=attrgetter("role")):
        first, *others = same
        merged.append(
            Turn(role, tuple(chain.from_iterable(turn.blocks for turn in (first, *others)))) if others else first
        )
    return merged


def _without_trailing_space(turn: Turn) -> Turn:
    """The answer's beginning, which must not end in white space."""
    *others, last = turn.blocks or (Text(""),)
    if isinstance(last, Text):
        last = msgspec.structs.replace(last, text=last.text.rstrip())
    return msgspec.structs.replace(turn, blocks=(*others, last))


def _texts(turn: Turn) -> Iterator[Text]:
    for block in turn.blocks:
        if isinstance(block, Refusal):
            yield Text(block.text)
        elif isinstance(block, Text):
            yield block
        else:
            raise inexpressible("messages", f"something other than text in a {turn.role} message")


def _name(tool: Tool | ForeignTool) -> str:
    return tool.name if isinstance(tool, Tool) else str(tool.raw.get("name", ""))


def _input_schema(parameters: JSONObject | None) -> JSONObject:
    if parameters is None:
        return {"type": "object", "properties": {}}
    return parameters if "type" in parameters else {"type": "object", **parameters}


def _closed(schema: Any) -> Any:
    """`schema` in which objects say that they have no other fields, as the API wants them to.

    Every answer of this shape is one of the shape that was asked for.
    """
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: value if name in {"enum", "const", "default"} else _closed(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed
