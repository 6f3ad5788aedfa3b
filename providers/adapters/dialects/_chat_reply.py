"""OpenAI's chat completions, as replies and back; and what whole answers and streams of it share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec

from providers.adapters.dialects._chat_parts import DIALECT, source_of_url, url_of_source
from providers.adapters.dialects._chat_reasoning import read_reasoning, write_reasoning
from providers.adapters.dialects._chat_tools import signature_of, write_call
from providers.adapters.dialects.conversation import (
    Audio,
    Block,
    Citation,
    Conversation,
    Image,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
)
from providers.adapters.dialects.reply import Choice, Finish, Reply
from providers.adapters.errors import MalformedAnswerError, MalformedUsageError
from providers.adapters.types import JSONObject, Usage

ReadUsage = Callable[[JSONObject], Usage]

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # Words of servers that speak this format less strictly.
    "model_length": "length",
    "max_tokens": "length",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "sensitive": "content_filter",
}
_WRITTEN: dict[Finish, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "stop",
    "other": "stop",
}
_decode = msgspec.json.Decoder(Any).decode


def read_reply(body: bytes, read_usage: ReadUsage) -> Reply:
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedAnswerError(f"the answer is not valid JSON: {error}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise MalformedAnswerError("the answer has no list of choices")
    ids = CallIds()
    return Reply(
        id=text(answer, "id"),
        model=text(answer, "model"),
        choices=tuple(_choice(choice, number, ids) for number, choice in enumerate(answer["choices"])),
        usage=usage_of(answer, read_usage),
        created=whole_number(answer, "created"),
        service_tier=text(answer, "service_tier"),
        extra={"system_fingerprint": answer["system_fingerprint"]} if answer.get("system_fingerprint") else {},
        dialect=DIALECT,
    )


def _choice(choice: Any, number: int, ids: CallIds) -> Choice:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise MalformedAnswerError(f"choices[{number}] has no message")
    blocks = _blocks(message, ids)
    finish, sequence = read_finish(choice, {type(block) for block in blocks})
    logprobs = choice.get("logprobs")
    index = choice.get("index")
    return Choice(
        blocks,
        finish,
        sequence,
        logprobs if isinstance(logprobs, dict) else None,
        index if isinstance(index, int) else number,
    )


def _blocks(message: JSONObject, ids: CallIds) -> tuple[Block, ...]:
    blocks: list[Block] = [*read_reasoning(message)]
    thoughts, content = content_of(message.get("content"))
    if thoughts:
        blocks.append(Reasoning(thoughts))
    citations = citations_of(message)
    if content or citations:
        blocks.append(Text(content, citations))
    if refusal := text(message, "refusal"):
        blocks.append(Refusal(refusal))
    if sound := audio_of(message):
        blocks.append(sound)
    blocks += images_of(message)
    calls = message.get("tool_calls")
    blocks += [_call(call, ids) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    if isinstance(legacy := message.get("function_call"), dict):
        blocks.append(ToolCall(ids.new(""), text(legacy, "name"), text(legacy, "arguments")))
    return tuple(blocks)


def _call(call: JSONObject, ids: CallIds) -> ToolCall:
    name, arguments = called(call)
    return ToolCall(ids.new(text(call, "id")), name, arguments, "custom" in call, signature_of(call))


def called(call: JSONObject) -> tuple[str, str]:
    """The name and the arguments, or pieces of them, of a call of whichever kind."""
    if isinstance(custom := call.get("custom"), dict):
        return text(custom, "name"), text(custom, "input")
    function = call.get("function")
    if not isinstance(function, dict):
        return "", ""
    arguments = function.get("arguments")
    # Some servers send the object itself.
    written = msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else text(function, "arguments")
    return text(function, "name"), written


class CallIds:
    """Sees to it that every call of one answer has an id of its own."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def new(self, given: str) -> str:
        """`given`, unless it is empty or had been given before."""
        call_id = given if given and given not in self._seen else f"call_{secrets.token_hex(12)}"
        self._seen.add(call_id)
        return call_id


def content_of(content: Any) -> tuple[str, str]:
    """The thoughts and the text of a content, which some servers give as a list of parts."""
    if isinstance(content, str):
        return "", content
    thoughts, said = "", ""
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":
            inner = part.get("thinking")
            thoughts += inner if isinstance(inner, str) else content_of(inner)[1]
        else:
            said += text(part, "text")
    return thoughts, said


def citations_of(message: JSONObject) -> tuple[Citation, ...]:
    annotations = message.get("annotations")
    if not isinstance(annotations, list):
        return ()
    return tuple(_citation(annotation) for annotation in annotations if isinstance(annotation, dict))


def _citation(annotation: JSONObject) -> Citation:
    cited = annotation.get("url_citation")
    if not isinstance(cited, dict):
        return Citation(raw=annotation, dialect=DIALECT)
    start, end = cited.get("start_index"), cited.get("end_index")
    return Citation(
        url=text(cited, "url"),
        title=text(cited, "title"),
        cited_text=text(cited, "content"),
        start=start if isinstance(start, int) else None,
        end=end if isinstance(end, int) else None,
    )


def write_citation(citation: Citation) -> JSONObject:
    """Empty for one that only another dialect has words for."""
    if citation.dialect == DIALECT and citation.raw:
        return citation.raw
    if not citation.url:
        return {}
    cited: JSONObject = {
        "url": citation.url,
        "title": citation.title,
        "start_index": citation.start or 0,
        "end_index": citation.end or 0,
    }
    if citation.cited_text:
        cited["content"] = citation.cited_text
    return {"type": "url_citation", "url_citation": cited}


def audio_of(message: JSONObject) -> Audio | None:
    sound = message.get("audio")
    if not isinstance(sound, dict):
        return None
    return Audio(Source(data=text(sound, "data")), text(sound, "transcript"), text(sound, "id"))


def images_of(message: JSONObject) -> list[Image]:
    """Pictures that a model made, as some servers have them beside the content."""
    images = message.get("images")
    urls = [image.get("image_url") for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return [Image(source_of_url(text(url, "url"))) for url in urls if isinstance(url, dict) and text(url, "url")]


def write_image(image: Image) -> JSONObject:
    return {"type": "image_url", "image_url": {"url": url_of_source(image.source, "image/png")}}


def read_finish(choice: JSONObject, kinds: set[type[Any]]) -> tuple[Finish, str]:
    """Why a choice of blocks of these `kinds` ended, and the stop sequence, which some servers tell."""
    finish = _FINISHES.get(text(choice, "finish_reason"), "other")
    if finish != "stop":
        return finish, ""
    if ToolCall in kinds:
        return "tool_calls", ""
    if Refusal in kinds and Text not in kinds:
        return "refusal", ""
    sequence = text(choice, "stop_reason")
    return ("stop_sequence", sequence) if sequence else ("stop", "")


def write_finish(finish: Finish, kinds: set[type[Any]], asked: Conversation) -> str:
    if finish == "refusal" and Refusal in kinds:
        return "stop"  # The refusal itself says it.
    if finish == "tool_calls" and asked.legacy_functions:
        return "function_call"
    return _WRITTEN[finish]


def usage_of(answer: JSONObject, read_usage: ReadUsage) -> Usage | None:
    raw = raw_usage(answer)
    try:
        return None if raw is None else read_usage(raw)
    except MalformedUsageError:
        return None  # The answer is still good; who settles reads the figures for himself, and complains.


def raw_usage(answer: JSONObject) -> JSONObject | None:
    extension = answer.get("x_groq")
    for usage in (answer.get("usage"), extension.get("usage") if isinstance(extension, dict) else None):
        if isinstance(usage, dict):
            return usage
    return None


def write_usage(usage: Usage) -> JSONObject:
    """Inclusive, as this format has it."""
    cached = usage.cache_read
    details: JSONObject = {"cached_tokens": cached, "audio_tokens": usage.audio_input}
    if written := usage.cache_write_5m + usage.cache_write_1h:
        details["cache_write_tokens"] = written
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_output,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def write_reply(reply: Reply, asked: Conversation) -> bytes:
    answer: JSONObject = {
        "id": reply.id or new_id(),
        "object": "chat.completion",
        "created": reply.created or int(time.time()),
        "model": reply.model or asked.model,
        "choices": [_written_choice(choice, asked, reply) for choice in reply.choices],
    }
    if reply.usage is not None:
        answer["usage"] = write_usage(reply.usage)
    if reply.service_tier:
        answer["service_tier"] = reply.service_tier
    if reply.dialect == DIALECT:
        answer.update(reply.extra)
    return msgspec.json.encode(answer)


def new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


def _written_choice(choice: Choice, asked: Conversation, reply: Reply) -> JSONObject:
    kinds = {type(block) for block in choice.blocks}
    written: JSONObject = {
        "index": choice.index,
        "message": _message(choice.blocks, asked, reply),
        "logprobs": choice.logprobs,
        "finish_reason": write_finish(choice.finish, cast("set[type[Any]]", kinds), asked),
    }
    if choice.stop_sequence:
        written["stop_reason"] = choice.stop_sequence
    return written


def _message(blocks: tuple[Block, ...], asked: Conversation, reply: Reply) -> JSONObject:
    texts = [block for block in blocks if isinstance(block, Text)]
    refusals = "".join(block.text for block in blocks if isinstance(block, Refusal))
    message: JSONObject = {
        "role": "assistant",
        "content": "".join(block.text for block in texts) if texts else None,
        "refusal": refusals or None,
        **write_reasoning(tuple(block for block in blocks if isinstance(block, Reasoning))),
    }
    if cited := [written for written in _shifted_citations(texts) if written]:
        message["annotations"] = cited
    calls = [block for block in blocks if isinstance(block, ToolCall)]
    if calls and asked.legacy_functions:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [write_call(call) for call in calls]
    if images := [write_image(block) for block in blocks if isinstance(block, Image)]:
        message["images"] = images
    for block in blocks:
        if isinstance(block, Audio):
            message["audio"] = {
                "id": block.id,
                "data": block.source.data,
                "transcript": block.transcript,
                "expires_at": reply.created or int(time.time()),
            }
    return message


def _shifted_citations(texts: list[Text]) -> list[JSONObject]:
    """Positions count from where the whole text begins, which is made of all blocks."""
    before = 0
    written: list[JSONObject] = []
    for block in texts:
        written.extend(write_citation(shifted(citation, before)) for citation in block.citations)
        before += len(block.text)
    return written


def shifted(citation: Citation, by: int) -> Citation:
    if not by or citation.start is None or citation.end is None:
        return citation
    return msgspec.structs.replace(citation, start=citation.start + by, end=citation.end + by)


def text(values: JSONObject, name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def whole_number(values: JSONObject, name: str) -> int:
    value = values.get(name)
    return int(value) if isinstance(value, (int, float)) else 0
