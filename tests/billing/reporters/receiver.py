"""A real HTTP server that takes webhooks, and checks signatures with an implementation of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from billing.reporters.models import UsageReporter

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    def is_signed(self, secret: str = SECRET, *, tolerance_s: float = 300) -> bool:
        """As https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md says."""
        key = base64.b64decode(secret[len("whsec_") :])
        if abs(time.time() - int(self.headers["webhook-timestamp"])) > tolerance_s:
            return False
        text = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
        signatures = self.headers["webhook-signature"].split(" ")
        return any(each == f"v1,{wanted}" for each in signatures)


@dataclass
class Receiver:
    """`status` and `headers` are what it answers; `delay_s` is how long it thinks about it."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    received: list[Received] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        """On a free port; once stopped, on the same port again."""
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.receiver = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/usage"

    @property
    def request_ids(self) -> list[str]:
        """Of all events, in order, those of batches included."""
        contents = [each.content for each in self.received]
        return [
            event["request_id"]
            for content in contents
            for event in (content if isinstance(content, list) else [content])
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    receiver: Receiver


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        receiver = server.receiver
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:  # Its sender was killed half-way.
            self.close_connection = True
            return
        receiver.received.append(
            Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        )
        if receiver.delay_s:
            threading.Event().wait(receiver.delay_s)
        self.send_response(receiver.status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        if receiver.status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def make_reporter(url: str, *, using: str = "default", secret: str = SECRET, **values: Any) -> UsageReporter:
    """A webhook that may reach this machine."""
    reporter = UsageReporter(**{"name": "billing", "url": url, "allow_private_network": True, **values})
    if secret:
        reporter.set_secret(secret)
    reporter.full_clean(exclude=["name"])
    reporter.save(using=using)
    return reporter
