"""The items that go into OpenAI's Responses, as turns and back."""

from __future__ import annotations

from providers.adapters.dialects._fields import Fields
from providers.adapters.dialects._messages_thoughts import read_proof, signature_of
from providers.adapters.dialects._responses_parts import DIALECT, PartWriter, read_parts, write_citation
from providers.adapters.dialects.base import Limits
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Conversation,
    File,
    Foreign,
    Image,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from providers.adapters.types import JSONObject

_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")


class ItemReader:
    """Reads the input of one request, in its order. Items of the model that follow each other make one turn."""

    def __init__(self) -> None:
        self._turns: list[tuple[Role, list[Block]]] = []

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple([Turn(role, tuple(blocks)) for role, blocks in self._turns])

    def begin(self, role: Role, *blocks: Block) -> None:
        """Another turn."""
        self._turns.append((role, list(blocks)))

    def read(self, fields: Fields) -> None:
        value = fields.get("input")
        if isinstance(value, str):
            self.begin("user", Text(value))
            return
        for item in fields.objects("input"):
            self._item(item)

    def _item(self, item: Fields) -> None:
        kind = item.text("type", "message")
        if kind == "message":
            self._message(item)
        elif kind in _OUTPUTS:
            self._result(_result(item, custom=kind.startswith("custom")))
        elif kind == "reasoning":
            self._said(read_reasoning(item.raw))
        elif kind == "function_call":
            self._said(ToolCall(item.required_text("call_id"), item.required_text("name"), item.text("arguments")))
        elif kind == "custom_tool_call":
            call_id, name = item.required_text("call_id"), item.required_text("name")
            self._said(ToolCall(call_id, name, item.text("input"), custom=True))
        elif kind.endswith("_output"):
            self.begin("user", Foreign(DIALECT, item.raw))
        else:
            self._said(Foreign(DIALECT, item.raw))

    def _message(self, item: Fields) -> None:
        role = item.one_of("role", tuple(_ROLES))
        if not role:
            raise item.wrong("role", f"one of {', '.join(_ROLES)}")
        blocks = read_parts(item, "content")
        if role == "assistant":
            self._said(*blocks)
        else:
            self.begin(_ROLES[role], *blocks)

    def _said(self, *blocks: Block) -> None:
        if self._turns and self._turns[-1][0] == "assistant":
            self._turns[-1][1].extend(blocks)
        else:
            self.begin("assistant", *blocks)

    def _result(self, result: ToolResult) -> None:
        """Results that follow each other are of calls made at the same time."""
        before = self._turns[-1][1] if self._turns else []
        if before and isinstance(before[-1], ToolResult):
            before.append(result)
        else:
            self.begin("user", result)


def _result(item: Fields, *, custom: bool) -> ToolResult:
    content = tuple(b for b in read_parts(item, "output") if isinstance(b, (Text, Image, File, Audio)))
    return ToolResult(item.required_text("call_id"), content, item.text("name"), custom=custom)


def read_reasoning(item: JSONObject) -> Reasoning:
    """A reasoning item: its summary, or else the thoughts themselves."""
    summary, content = texts_of(item.get("summary")), texts_of(item.get("content"))
    encrypted = item.get("encrypted_content")
    sealed = encrypted if isinstance(encrypted, str) else ""
    text = "\n\n".join(summary or content)
    if (proof := read_proof(text, sealed)) is not None:
        return proof
    item_id = item.get("id")
    return Reasoning(
        text,
        encrypted=sealed,
        id=item_id if isinstance(item_id, str) else "",
        summary=bool(summary) or not content,
        dialect=DIALECT,
    )


def texts_of(parts: object) -> list[str]:
    if not isinstance(parts, list):
        return []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in texts if isinstance(text, str)]


def write_reasoning(block: Reasoning, item_id: str) -> JSONObject:
    """Thoughts of other models are shown as summaries, for that is what clients know."""
    item: JSONObject = {
        "id": item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": block.text}] if block.text else [],
    }
    if sealed := sealed_of(block):
        item["encrypted_content"] = sealed
    return item


def sealed_of(block: Reasoning) -> str:
    """What the client sends back unread: this dialect's own, or what another one wants to see again."""
    if block.dialect in ("", DIALECT):
        return block.encrypted
    return signature_of(block, DIALECT)


class ItemWriter:
    """Writes the turns of one request as input items, and notes what had to be left out."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self._limits = limits
        self._own = conversation.dialect == DIALECT
        self._custom_calls: set[str] = set()
        self.items: list[JSONObject] = []
        self.dropped: list[str] = []

    def write(self, turn: Turn, number: int) -> None:
        if turn.name:
            self.dropped.append(f"messages[{number}].name")
        parts = PartWriter(f"input[{number}]", self._limits, own=self._own)
        if turn.role == "assistant":
            self._said(turn, parts)
            return
        shown: list[Block] = []
        for block in turn.blocks:
            if isinstance(block, ToolResult):
                self._result(block, parts)
            elif isinstance(block, Foreign) and block.dialect == DIALECT and "output" in block.raw:
                self.items.append(block.raw)
            else:
                shown.append(block)
        if shown:
            content = parts.content(tuple(shown))
            self.items.append({"type": "message", "role": turn.role, "content": content})

    def _result(self, result: ToolResult, parts: PartWriter) -> None:
        if result.is_error:
            self.dropped.append("is_error")
        is_custom = result.custom or result.call_id in self._custom_calls
        kind = "custom_tool_call_output" if is_custom else "function_call_output"
        output = parts.content(result.content) if result.content else ""
        self.items.append({"type": kind, "call_id": result.call_id, "output": output})

    def _said(self, turn: Turn, parts: PartWriter) -> None:
        content: list[JSONObject] = []
        for block in turn.blocks:
            if isinstance(block, (Text, Refusal)):
                content.append(write_output_part(block))
                continue
            item = self._spoken(block, parts)
            if item is None:
                continue
            self._message(content)
            content = []
            self.items.append(item)
        self._message(content)

    def _message(self, content: list[JSONObject]) -> None:
        if content:
            self.items.append({"type": "message", "role": "assistant", "content": content})

    def _spoken(self, block: Block, parts: PartWriter) -> JSONObject | None:
        """None: it says nothing here."""
        match block:
            case ToolCall(custom=True):
                self._custom_calls.add(block.id)
                return {"type": "custom_tool_call", "call_id": block.id, "name": block.name, "input": block.arguments}
            case ToolCall():
                call = {"call_id": block.id, "name": block.name, "arguments": block.arguments}
                return {"type": "function_call", **call}
            case Reasoning(dialect=dialect) if dialect == DIALECT and block.id:
                return write_reasoning(block, block.id)
            case Reasoning():
                return None  # A provider refuses thoughts that are not its own.
            case Audio():
                return {"type": "message", "role": "assistant", "content": [write_output_part(Text(block.transcript))]}
            case Foreign() if block.dialect == DIALECT:
                return block.raw
            case _:
                raise parts.inexpressible(f"a block of type `{type(block).__struct_config__.tag}`")


def write_output_part(block: Text | Refusal) -> JSONObject:
    """A part of what the model said."""
    if isinstance(block, Refusal):
        return {"type": "refusal", "refusal": block.text}
    cited = [written for citation in block.citations if (written := write_citation(citation))]
    return {"type": "output_text", "text": block.text, "annotations": cited}
