"""Writes requests of Gemini's generateContent from the common form.

System turns become the one instruction that stands before all contents, wherever they stood. Results of tools that
follow each other become one content, for the API wants those of parallel calls together.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from providers.adapters.dialects._gemini_fields import DIALECT
from providers.adapters.dialects._gemini_parts import write_block, write_result
from providers.adapters.dialects._gemini_request import generation_config
from providers.adapters.dialects._gemini_schema import accepted
from providers.adapters.dialects._thinking import BUDGETS
from providers.adapters.dialects.base import Limits, Written
from providers.adapters.dialects.conversation import (
    Block,
    Conversation,
    File,
    Foreign,
    ForeignTool,
    Image,
    OutputFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from providers.adapters.errors import InexpressibleError
from providers.adapters.types import JSONObject

STOP_MAX = 5
"""https://ai.google.dev/api/generate-content#generationconfig."""
SKIP_SIGNATURE = "skip_thought_signature_validator"
"""In place of a signature that there is none of: https://ai.google.dev/gemini-api/docs/thought-signatures."""

_GENERATION = re.compile(r"gemini-(\d+)")
_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_MODES = {"none": "NONE", "required": "ANY", "tool": "ANY"}
_MODALITIES = {"text": "TEXT", "image": "IMAGE", "audio": "AUDIO"}
_TIERS = {"default": "standard", "flex": "flex", "priority": "priority"}


def generation_of(model: str) -> int:
    """Of a Gemini model, by its name; 0: it does not say."""
    found = _GENERATION.search(model)
    return int(found[1]) if found else 0


class RequestWriter:
    """Writes one request, and notes what had to be left out."""

    def __init__(self, conversation: Conversation, limits: Limits) -> None:
        self._asked = conversation
        self._limits = limits
        self._native = conversation.dialect == DIALECT
        self._generation = generation_of(limits.model)
        self._dropped: list[str] = []
        self._tool_names = conversation.tool_names()

    def written(self) -> Written:
        asked = self._asked
        extra, extra_config = generation_config(asked.extra if self._native else {})
        body: JSONObject = {**extra, **self._turns()}
        if asked.tools:
            body["tools"] = self._tools()
        if asked.tool_choice is not None and (asked.tools or asked.tool_choice.mode != "none"):
            body["toolConfig"] = {"functionCallingConfig": _calling(asked.tool_choice)}
        config = {**extra_config, **self._config()}
        if config:
            body["generationConfig"] = config
        if asked.service_tier in _TIERS:
            body["serviceTier"] = _TIERS[asked.service_tier]
        if asked.store is not None and self._native:
            body["store"] = asked.store
        self._note_unsaid()
        return Written(msgspec.json.encode(body), tuple(dict.fromkeys(self._dropped)))

    # ── contents ──

    def _turns(self) -> JSONObject:
        written: JSONObject = {}
        system: list[JSONObject] = []
        contents: list[JSONObject] = []
        for number, turn in enumerate(self._asked.turns):
            if turn.role in {"system", "developer"}:
                for block in turn.blocks:
                    if isinstance(block, Foreign) and block.dialect == DIALECT and "cachedContent" in block.raw:
                        written.update(block.raw)
                    elif (part := write_block(block, param=f"messages[{number}]")) is not None:
                        system.append(part)
            else:
                self._add_content(contents, turn, number)
            if turn.name:
                self._dropped.append("name")
        if not contents and system:
            # The API wants contents; an instruction alone is what the user says.
            return {**written, "contents": [{"role": "user", "parts": system}]}
        if system:
            written["systemInstruction"] = {"parts": system}
        return {**written, "contents": contents}

    def _add_content(self, contents: list[JSONObject], turn: Turn, number: int) -> None:
        param = f"messages[{number}]"
        parts = [part for block in turn.blocks if (part := self._part(block, param)) is not None]
        if not parts:
            return
        if turn.role == "assistant":
            self._excuse_signature(parts)
            contents.append({"role": "model", "parts": parts})
            return
        if contents and _is_result(parts[0]) and _is_result(contents[-1]["parts"][0]):
            contents[-1]["parts"] += parts
            return
        contents.append({"role": "user", "parts": parts})

    def _part(self, block: Block, param: str) -> JSONObject | None:
        if isinstance(block, (Text, Image, File, ToolCall, ToolResult)) and block.cache is not None:
            self._dropped.append("cache_control")
        if isinstance(block, Image) and block.detail in {"low", "high"}:
            self._dropped.append("detail")
        if isinstance(block, ToolResult):
            name = block.name or self._tool_names.get(block.call_id, "")
            if not name:
                raise InexpressibleError(
                    f"`{param}` answers the call '{block.call_id}', which is not in the conversation; send it too.",
                    param=param,
                )
            return write_result(block, name, param=param)
        return write_block(block, param=param)

    def _excuse_signature(self, parts: list[JSONObject]) -> None:
        """From its third generation on, Gemini refuses calls without a signature: those of other models have none."""
        call = next((part for part in parts if "functionCall" in part), None)
        if call is not None and self._generation >= 3:
            call.setdefault("thoughtSignature", SKIP_SIGNATURE)

    # ── tools ──

    def _tools(self) -> list[JSONObject]:
        functions: list[JSONObject] = []
        others: list[JSONObject] = []
        for number, tool in enumerate(self._asked.tools):
            if isinstance(tool, Tool):
                functions.append(self._function(tool, f"tools[{number}]"))
            elif tool.dialect == DIALECT:
                others.append(tool.raw)
            else:
                raise _unknown_tool(tool, f"tools[{number}]")
        return ([{"functionDeclarations": functions}] if functions else []) + others

    def _function(self, tool: Tool, param: str) -> JSONObject:
        if tool.custom is not None:
            raise InexpressibleError(
                f"`{param}` takes free text, and tools in the dialect {DIALECT} of this model's provider take JSON; "
                "give it parameters or call another model.",
                param=param,
            )
        if tool.strict:
            self._dropped.append("strict")
        if tool.cache is not None:
            self._dropped.append("cache_control")
        written: JSONObject = {"name": tool.name}
        if tool.description:
            written["description"] = tool.description
        if tool.parameters:
            written["parametersJsonSchema"] = accepted(tool.parameters)
        return written

    # ── settings ──

    def _config(self) -> JSONObject:
        asked = self._asked
        config: JSONObject = {
            "maxOutputTokens": self._cap(),
            "temperature": asked.temperature,
            "topP": asked.top_p,
            "topK": asked.top_k,
            "stopSequences": self._stop(),
            "presencePenalty": asked.presence_penalty,
            "frequencyPenalty": asked.frequency_penalty,
            "seed": asked.seed,
            "candidateCount": asked.choices,
            "responseLogprobs": asked.logprobs or None,
            "logprobs": asked.top_logprobs if asked.logprobs else None,
            "responseModalities": [_MODALITIES[name] for name in asked.modalities] or None,
            "speechConfig": _speech(asked.audio),
            "thinkingConfig": self._thinking(asked.thinking),
            **_format(asked.output_format),
        }
        return {name: value for name, value in config.items() if value is not None}

    def _cap(self) -> int | None:
        cap, most = self._asked.max_output_tokens, self._limits.max_output_tokens
        return cap if cap is None or most is None else min(cap, most)

    def _stop(self) -> list[str] | None:
        if len(self._asked.stop) > STOP_MAX:
            raise InexpressibleError(f"`stop` may have {STOP_MAX} sequences at most for this model.", param="stop")
        return list(self._asked.stop) or None

    def _thinking(self, thinking: Thinking | None) -> JSONObject | None:
        """A level for models that have levels, else a budget; the API takes one of them."""
        if thinking is None:
            return None
        written: JSONObject = {}
        effort = thinking.effort
        if thinking.budget_tokens is not None:
            written["thinkingBudget"] = thinking.budget_tokens
        elif effort and self._native:
            written["thinkingLevel"] = effort.upper()
        elif effort and self._generation >= 3:
            written["thinkingLevel"] = _LEVELS.get(effort, "HIGH")
        elif effort:
            written["thinkingBudget"] = BUDGETS.get(effort, BUDGETS["high"])
        visible = thinking.visible
        if visible is None and thinking.summary:
            visible = True
        if visible is not None:
            written["includeThoughts"] = visible
        return written or None

    def _note_unsaid(self) -> None:
        asked = self._asked
        unsaid: dict[str, Any] = {
            "logit_bias": asked.logit_bias,
            "parallel_tool_calls": asked.parallel_tool_calls is False,
            "verbosity": asked.verbosity,
            "user": asked.user,
            "metadata": asked.metadata,
            "prompt_cache_key": asked.cache_key,
            "service_tier": asked.service_tier not in {*_TIERS, "", "auto"},
            "store": asked.store and not self._native,
        }
        self._dropped += [name for name, value in unsaid.items() if value]
        if not self._native:
            self._dropped += asked.extra


def _is_result(part: JSONObject) -> bool:
    return "functionResponse" in part


def _calling(choice: ToolChoice) -> JSONObject:
    if choice.mode == "tool":
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    if choice.allowed:
        return {
            "mode": "ANY" if choice.mode == "required" else "VALIDATED",
            "allowedFunctionNames": list(choice.allowed),
        }
    return {"mode": _MODES.get(choice.mode, "AUTO")}


def _unknown_tool(tool: ForeignTool, param: str) -> InexpressibleError:
    kind = tool.raw.get("type") or next(iter(tool.raw), "")
    return InexpressibleError(
        f"`{param}` is `{kind}`, a tool that the dialect {DIALECT} of this model's provider does not know; "
        "leave it out or call another model.",
        param=param,
    )


def _format(output_format: OutputFormat | None) -> JSONObject:
    if output_format is None:
        return {}
    if output_format.kind == "text":
        return {"responseMimeType": "text/plain"}
    written: JSONObject = {"responseMimeType": "application/json"}
    if output_format.kind == "json_schema" and output_format.schema is not None:
        written["responseJsonSchema"] = accepted(output_format.schema)
    return written


def _speech(audio: JSONObject | None) -> JSONObject | None:
    if audio is None:
        return None
    if audio.get("format") not in {None, "pcm16"}:
        raise InexpressibleError(
            "This model speaks in the `audio.format` pcm16 only; ask for that.", param="audio.format"
        )
    return {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": audio.get("voice")}}}
