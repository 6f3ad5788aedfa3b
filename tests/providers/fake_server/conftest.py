"""The fake provider on a real socket, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from llmgateway.http import httpx
from providers.fake_server.app import FakeProvider
from providers.fake_server.records import Record
from providers.fake_server.server import make_server


@dataclass(frozen=True)
class Running:
    app: FakeProvider
    client: httpx.Client
    port: int

    @property
    def last(self) -> Record:
        return self.app.records[-1]

    def chat(self, *, content: str = "Hi", **fields: Any) -> httpx.Response:
        body = {"model": "fake-chat", "messages": [{"role": "user", "content": content}], **fields}
        return self.client.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def serving() -> Iterator[Running]:
    app = FakeProvider()
    server = make_server(app)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # Else the first request may come before the thread listens.
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                yield Running(app, client, port)
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def provider(serving: Running) -> Running:
    serving.app.forget()
    return serving
