"""OpenAI's Responses at the fake provider, which keeps them and goes on from them. What it says is what it says in chats."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any

from providers.adapters.types import JSONObject
from providers.fake_server.answers import CREATED, Answer
from providers.fake_server.scripts import Script


class Responses:
    """The responses that one fake provider keeps, in memory."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)  # Ids are never given twice, whatever is forgotten.
        self.clear()

    def clear(self) -> None:
        self._kept: dict[str, tuple[list[Any], JSONObject]] = {}

    def said(self, body: JSONObject) -> list[Any] | None:
        """The input and all that was said before. None: what it refers to is not here."""
        asked = body.get("input")
        own = [_message_of(asked)] if isinstance(asked, str) else list(asked or ())
        previous = body.get("previous_response_id")
        if previous is None:
            return own
        if previous not in self._kept:
            return None
        before, response = self._kept[previous]
        return [*before, *response["output"], *own]

    def begin(self, body: JSONObject, said: list[Any], script: Script, *, cached: bool) -> Response:
        number = next(self._numbers)
        chat = {"model": body.get("model"), "messages": [{"role": "user", "content": str(said)}]}
        cap = body.get("max_output_tokens")
        response = Response(body, Answer({**chat, "max_tokens": cap}, script, number=number, cached=cached), number)
        if body.get("store") is not False:
            self._kept[response.id] = said, response.whole()
        return response

    def answer(self, method: str, path: str) -> JSONObject | None:
        """What is said to a call about one response; None for what is not there."""
        _, response_id, *below = path.strip("/").split("/")
        if response_id not in self._kept:
            return None
        said, response = self._kept[response_id]
        match method, below:
            case "GET", []:
                return response
            case "GET", ["input_items"]:
                return {"object": "list", "data": said, "has_more": False}
            case "DELETE", []:
                del self._kept[response_id]
                return {"id": response_id, "object": "response", "deleted": True}
        return None


def _message_of(text: str) -> JSONObject:
    part = {"type": "input_text", "text": text}
    return {"id": f"msg_{zlib.crc32(text.encode()):08x}", "type": "message", "role": "user", "content": [part]}


class Response:
    """One response, decided in full before the first byte of it goes out."""

    def __init__(self, body: JSONObject, answer: Answer, number: int) -> None:
        self.id = f"resp_fake{number:06d}"
        self._body = body
        self._answer = answer
        self._item = f"msg_fake{number:06d}"

    def usage(self, words: int | None = None) -> JSONObject:
        told = self._answer.usage(words)
        return {
            "input_tokens": told["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": told["prompt_tokens_details"]["cached_tokens"]},
            "output_tokens": told["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": told["total_tokens"],
        }

    def whole(self) -> JSONObject:
        return {**self._begun(), "status": "completed", "output": [self._message()], "usage": self.usage()}

    def _begun(self) -> JSONObject:
        return {
            "id": self.id,
            "object": "response",
            "created_at": CREATED,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": self._body.get("instructions"),
            "model": self._answer.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": self._body.get("previous_response_id"),
            "store": self._body.get("store") is not False,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }

    def _message(self) -> JSONObject:
        part = {"type": "output_text", "text": "".join(self._answer.words), "annotations": []}
        return {"id": self._item, "type": "message", "role": "assistant", "status": "completed", "content": [part]}

    def events(self) -> Iterator[JSONObject]:
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        message = self._message()
        empty = {"type": "output_text", "text": "", "annotations": []}
        said: list[JSONObject] = [
            {"type": "response.created", "response": self._begun()},
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {**message, "content": [], "status": "in_progress"},
            },
            {"type": "response.content_part.added", **place, "part": empty},
            *[
                {"type": "response.output_text.delta", **place, "delta": word, "logprobs": []}
                for word in self._answer.words
            ],
            {
                "type": "response.output_text.done",
                **place,
                "text": message["content"][0]["text"],
                "logprobs": [],
            },
            {"type": "response.content_part.done", **place, "part": message["content"][0]},
            {"type": "response.output_item.done", "output_index": 0, "item": message},
            {"type": "response.completed", "response": self.whole()},
        ]
        yield from [{**event, "sequence_number": number} for number, event in enumerate(said)]
