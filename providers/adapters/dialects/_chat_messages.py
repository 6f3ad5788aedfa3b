"""The messages of OpenAI's chat requests, as turns and back."""

from __future__ import annotations

import msgspec

from providers.adapters.dialects._chat_parts import DIALECT, PartWriter, read_cache, read_parts
from providers.adapters.dialects._chat_reasoning import read_reasoning, write_reasoning
from providers.adapters.dialects._chat_tools import read_call, write_call
from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    File,
    Image,
    Reasoning,
    Refusal,
    Role,
    Source,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from providers.adapters.types import JSONObject

_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user"}
_LEGACY_ID = "call_of_message_{}"


class MessageReader:
    """Reads the messages of one request, in their order."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._results: list[ToolResult] = []
        self._legacy_call = ""
        self._custom_calls: set[str] = set()

    def read(self, fields: Fields) -> tuple[Turn, ...]:
        for number, message in enumerate(fields.objects("messages")):
            self._message(message, number)
        self._close_results()
        return tuple(self._turns)

    def _message(self, message: Fields, number: int) -> None:
        role = message.required_text("role")
        if role in ("tool", "function"):
            self._results.append(self._result(message, role))
            return
        # Results that follow each other are of calls made at the same time, so they make one turn.
        self._close_results()
        name = message.text("name")
        if role == "assistant":
            self._turns.append(Turn("assistant", self._said(message, number), name))
        elif role in _ROLES:
            blocks = read_parts(message, "content")
            cache = read_cache(message)
            if cache and blocks and isinstance(last := blocks[-1], (Text, Image, File)):
                blocks = (*blocks[:-1], msgspec.structs.replace(last, cache=cache))
            self._turns.append(Turn(_ROLES[role], blocks, name))
        else:
            raise message.wrong("role", "one of system, developer, user, assistant, tool, function")

    def _close_results(self) -> None:
        if self._results:
            self._turns.append(Turn("user", tuple(self._results)))
            self._results = []

    def _result(self, message: Fields, role: str) -> ToolResult:
        content = tuple(
            block for block in read_parts(message, "content") if isinstance(block, (Text, Image, File, Audio))
        )
        call_id = self._legacy_call if role == "function" else message.required_text("tool_call_id")
        is_custom = call_id in self._custom_calls
        return ToolResult(call_id, content, message.text("name"), custom=is_custom, cache=read_cache(message))

    def _said(self, message: Fields, number: int) -> tuple[Block, ...]:
        blocks: list[Block] = [*read_reasoning(message.raw), *read_parts(message, "content")]
        if refusal := message.text("refusal"):
            blocks.append(Refusal(refusal))
        if audio := message.object("audio"):
            blocks.append(Audio(Source(), id=audio.required_text("id")))
        calls = [read_call(call) for call in message.objects("tool_calls")]
        self._custom_calls.update(call.id for call in calls if call.custom)
        blocks += calls
        if legacy := message.object("function_call"):
            self._legacy_call = _LEGACY_ID.format(number)
            blocks.append(ToolCall(self._legacy_call, legacy.required_text("name"), legacy.text("arguments")))
        return tuple(blocks)


class MessageWriter:
    """Writes the turns of one request as messages, and notes what had to be left out."""

    def __init__(self, limits: Limits) -> None:
        self._extensions = limits.extensions
        self.messages: list[JSONObject] = []
        self.dropped: list[str] = []

    def write(self, turn: Turn, number: int) -> None:
        parts = PartWriter(f"messages[{number}].content", self._extensions)
        name = {"name": turn.name} if turn.name else {}
        if turn.role == "assistant":
            self.messages.append({"role": "assistant", **name, **self._said(turn, parts)})
            return
        results = [block for block in turn.blocks if isinstance(block, ToolResult)]
        shown: list[Block] = []
        for result in results:
            shown += self._result(result, parts)
        # What a tool made and its message cannot hold follows in the user's name, before what the user says.
        shown += [block for block in turn.blocks if not isinstance(block, ToolResult)]
        if shown or not results:
            self.messages.append({"role": self._role(turn.role), **name, "content": parts.content(tuple(shown))})

    def _role(self, role: str) -> str:
        return "system" if role == "developer" and "developer" not in self._extensions else role

    def _result(self, result: ToolResult, parts: PartWriter) -> list[Block]:
        """Returns what has to be shown elsewhere."""
        texts = tuple(block for block in result.content if isinstance(block, Text))
        others = [block for block in result.content if not isinstance(block, Text)]
        if result.is_error:
            self.dropped.append("is_error")
        content = parts.content(texts) if texts else ""
        if others and not texts:
            content = "The result follows in the next message."
        self.messages.append({"role": "tool", "tool_call_id": result.call_id, "content": content})
        return [Text(f"From the tool call {result.call_id}:"), *others] if others else []

    def _said(self, turn: Turn, parts: PartWriter) -> JSONObject:
        content: list[Block] = []
        said: JSONObject = {}
        calls: list[JSONObject] = []
        thoughts: list[Reasoning] = []
        for block in turn.blocks:
            match block:
                case ToolCall():
                    calls.append(write_call(block, signed="extra_content" in self._extensions))
                case Reasoning():
                    thoughts.append(block)
                case Audio() if block.id:
                    said["audio"] = {"id": block.id}
                case Audio():
                    content.append(Text(block.transcript))
                case _:
                    content.append(block)
        said["content"] = parts.content(tuple(content)) if content else None
        if said["content"] is None and not (calls or "audio" in said):
            said["content"] = ""
        if calls:
            said["tool_calls"] = calls
        return {**said, **self._thoughts(thoughts)}

    def _thoughts(self, blocks: list[Reasoning]) -> JSONObject:
        """Only servers that ask for earlier thoughts get them; others refuse the field."""
        fields = write_reasoning(tuple(_unsigned(block) for block in blocks))
        return {name: value for name, value in fields.items() if name in self._extensions}


def _unsigned(block: Reasoning) -> Reasoning:
    """Without what only another dialect's provider could read."""
    return block if block.dialect in ("", DIALECT) else Reasoning(block.text)
