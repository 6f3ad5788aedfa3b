"""A stream on its way from one dialect into another."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from providers.adapters.dialects.base import ERROR_CODES, ERROR_TYPES, StreamReader, StreamWriter
from providers.adapters.dialects.partial_usage import begun_usage
from providers.adapters.dialects.reply import BlockStarted, Delta, Ended, Event, Failed, Started
from providers.adapters.errors import MalformedAnswerError
from providers.adapters.types import JSONObject


class StreamTranslator:
    """A `StreamScanner` whose client speaks another dialect than its provider.

    Events are written as they come: nothing waits for the end of the answer.
    """

    __slots__ = ("_characters", "_model", "_reader", "_writer", "done", "error", "first_token", "response_model")

    def __init__(self, reader: StreamReader, writer: StreamWriter, *, model: str) -> None:
        """`model` is what the caller asked for, to be named where the provider names none."""
        self._reader = reader
        self._model = model
        self._writer = writer
        self._characters = 0
        self.response_model = ""
        self.error: JSONObject | None = None
        self.done = False
        self.first_token = False

    @property
    def usage_raw(self) -> JSONObject | None:
        return self._reader.usage_raw

    @usage_raw.setter
    def usage_raw(self, value: JSONObject | None) -> None:
        self._reader.usage_raw = value

    @property
    def begun_usage_raw(self) -> JSONObject | None:
        return begun_usage(self._reader)

    def feed(self, chunk: bytes) -> bytes:
        return self._written(self._reader.feed(chunk))

    def finish(self) -> bytes:
        return self._written(self._reader.finish())

    def estimated_output(self, chars_per_token: float) -> int:
        return int(self._characters / chars_per_token) + (self._characters > 0)

    def _written(self, events: Iterable[Event]) -> bytes:
        try:
            return b"".join([self._writer.write(self._noted(event)) for event in events])
        except KeyError as error:
            # Writers know blocks by their numbers.
            raise MalformedAnswerError(f"the provider speaks of block {error}, which never began") from error

    def _noted(self, event: Event) -> Event:
        match event:
            case Delta():
                self._characters += len(event.text) + len(event.audio)
                self.first_token = self.first_token or bool(event.text or event.audio)
            case BlockStarted():
                self.first_token = True
            case Started():
                self.response_model = event.model
                return event if event.model else msgspec.structs.replace(event, model=self._model)
            case Ended():
                self.done = True
            case Failed() if self.error is None:
                self.error = {
                    "message": event.message,
                    "type": ERROR_TYPES[event.kind],
                    "code": ERROR_CODES[event.kind],
                }
        return event
