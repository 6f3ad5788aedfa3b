"""vLLM, TGI, Ollama and llama.cpp, as their documentation says that they behave; their bytes are those of the fixtures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmgateway.http import httpx

FIXTURES = Path(__file__).parents[1] / "providers" / "fixtures"


@dataclass(frozen=True)
class Manner:
    """In what the servers differ."""

    key: str = ""
    """What it was started with; empty: everybody may call it."""
    model: str = "local"
    """The name that requests must have; empty: any will do."""
    health: str = "/health"
    tells_usage_unasked: bool = False
    """In streams that did not ask for it."""
    unknown_fields: frozenset[str] = frozenset()
    """What it does not take."""


MANNERS = {
    "vllm": Manner(key="sk-local"),
    "tgi": Manner(model="", unknown_fields=frozenset({"max_completion_tokens"})),
    "ollama": Manner(health="/"),
    "llamacpp": Manner(key="sk-local", model="", tells_usage_unasked=True),
}


FILES = {(name, path.name): path.read_bytes() for name in MANNERS for path in (FIXTURES / name).iterdir()}
"""Read once, for a loop of events must not wait for a disk."""


class OwnServer:
    """One of them. `transport` goes where a real one would; `loading` and `full` are states that it can be in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.manner = MANNERS[name]
        self.loading = self.full = False
        self.requests: list[httpx.Request] = []
        self.transport = httpx.MockTransport(self._answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests if request.method == "POST"]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        if path in {self.manner.health, f"/v1{self.manner.health}"}:
            return self._health(path)
        if self.manner.key and request.headers.get("authorization") != f"Bearer {self.manner.key}":
            return self._error("authentication", request)
        if (request.method, path) == ("GET", "/v1/models"):
            listed = {"id": self.manner.model or "whatever", "object": "model", "owned_by": self.name}
            return httpx.Response(200, json={"object": "list", "data": [listed]})
        if (request.method, path) == ("POST", "/v1/chat/completions"):
            return self._chat(request, json.loads(request.content))
        return httpx.Response(404, json={"detail": "Not Found"})

    def _health(self, path: str) -> httpx.Response:
        if path.startswith("/v1") and self.name != "llamacpp":
            return httpx.Response(404, json={"detail": "Not Found"})
        return self._error("overloaded", None) if self.loading else httpx.Response(200, json={"status": "ok"})

    def _chat(self, request: httpx.Request, body: dict[str, Any]) -> httpx.Response:
        if self.full or self.loading:
            return self._error("overloaded", request)
        if self.manner.unknown_fields & body.keys() or (self.manner.model and body["model"] != self.manner.model):
            return self._error("invalid_request", request)
        if len(str(body["messages"])) > 4096:
            return self._error("context_too_long", request)
        if not body.get("stream"):
            return self._reply("chat.json", "application/json")
        asked = body.get("stream_options", {}).get("include_usage") or self.manner.tells_usage_unasked
        return self._reply("chat_stream.sse", "text/event-stream", without=b"" if asked else b'"choices":[],')

    def _reply(self, file: str, kind: str, *, without: bytes = b"") -> httpx.Response:
        content = FILES[self.name, file]
        if without:
            content = b"\n\n".join([event for event in content.split(b"\n\n") if without not in event])
        return httpx.Response(200, headers={"content-type": kind}, content=content)

    def _error(self, kind: str, request: httpx.Request | None) -> httpx.Response:
        found = [each for each in json.loads(FILES[self.name, "errors.json"]) if each["kind"] == kind]
        assert found, f"{self.name} was not expected to answer {kind} to {request}"
        return httpx.Response(found[0]["status"], json=found[0]["body"])
