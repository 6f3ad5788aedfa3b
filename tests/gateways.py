"""A gateway made of fakes, and the ASGI client that speaks to it. For tests of the pipeline and the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from msgspec import structs

from billing.pricing import PriceVersion
from billing.windows import load_zone
from llmgateway.api.app import DataPlane
from llmgateway.conf import Conf
from llmgateway.http import httpx
from llmgateway.key_secrets import digest
from llmgateway.pipeline.authentication import Authenticator
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.protocols import AdmissionStore, Record
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, KeyDigest, Snapshot, Target, Timeouts
from llmgateway.pipeline.telemetry import Telemetry
from llmgateway.pipeline.upstream import Upstream
from llmgateway.stores.memory import MemoryStore
from providers.adapters.registry import get_adapter
from tests.fakes import FakeClock, FakeLedger, ScriptedUpstream

PEPPER = b"pepper"
SECRET = "sk-gw-alicealice-0123456789abcdef"
PRICE = PriceVersion(
    id=7, effective_from=0.0, input=2, output=10, cache_read=1, cache_write_5m=2, cache_write_1h=2,
    audio_input=2, image_input=2, reasoning=10, audio_output=10,
)  # fmt: skip
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-upstream-2026",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    "novel_field": {"kept": True},
}


def key(name: str = "alice", **changes: Any) -> Key:
    return structs.replace(Key(id="1", public_id="alicealice", name=name, team_id=3, team_name="red"), **changes)


def deployment(name: str = "main", number: int = 1, **changes: Any) -> Deployment:
    made = Deployment(
        id=number,
        name=name,
        provider=f"provider-{name}",
        adapter=get_adapter("openai_compatible"),
        base_url=f"http://{name}.test/v1",
        model="gpt-upstream",
        headers=((b"authorization", b"Bearer provider-secret"),),
        timeouts=Timeouts(),
        prices=(PRICE,),
    )
    return replace(made, **changes)


def alias(name: str, *deployments: Deployment, strategy: str = "priority") -> Alias:
    return Alias(1, name, 1_700_000_000, strategy, tuple(Target(each) for each in deployments))


def snapshot(*aliases: Alias, who: Key | None = None, **changes: Any) -> Snapshot:
    known = who or key()
    for budget in known.budgets:
        load_zone(budget.time_zone)
    return replace(
        Snapshot(
            keys={digest(SECRET.encode(), PEPPER): KeyDigest(known)},
            aliases={each.name: each for each in aliases or (alias("gpt", deployment()),)},
            providers=("provider-main",),
            budgets={budget.id: budget for budget in known.budgets},
        ),
        **changes,
    )


NO_WEBHOOKS = {"pending": 0, "dead": 0, "oldest_age_s": 0.0, "delivered": 0, "failed": 0}


class FakeStatus:
    """What a process would say of itself."""

    ready = True
    version = "1.2.3"

    def facts(self) -> dict[str, Any]:
        return {
            "database": "ok",
            "ledger": "ok",
            "journal_backlog_bytes": 0,
            "journal_undrained_s": 0.0,
            "counters": "ok",
            "config_revision": 1,
            "webhooks": NO_WEBHOOKS,
        }

    async def sibling_metrics(self) -> list[bytes]:
        return []


class LogLines:
    """Keeps access lines in place of writing them."""

    def __init__(self) -> None:
        self.lines: list[Record] = []

    def write(self, line: Record) -> None:
        self.lines.append(line)


@dataclass
class House:
    """A whole data plane over a scripted upstream."""

    upstream: ScriptedUpstream
    snapshot: Snapshot = field(default_factory=snapshot)
    clock: FakeClock = field(default_factory=FakeClock)
    settings: dict[str, str] = field(default_factory=dict)
    counters: Callable[[FakeClock], AdmissionStore] = MemoryStore

    def __post_init__(self) -> None:
        self.ledger = FakeLedger()
        self.store = self.counters(self.clock)
        self.log = LogLines()
        self.telemetry = Telemetry(self.log)
        self.status = FakeStatus()
        self.gateway = Gateway(
            snapshot=self.snapshot,
            authenticator=Authenticator((PEPPER,)),
            store=self.store,
            ledger=self.ledger,
            upstream=Upstream(self.upstream.transport),
            telemetry=self.telemetry,
            clock=self.clock,
        )
        self.conf = Conf(self.settings)
        self.app = DataPlane(self.gateway, self.conf, self.status)

    @property
    def row(self) -> Record:
        """The only ledger row."""
        (row,) = self.ledger.closed
        return row

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", **named}
        return await self.request("POST", path, content, {name: value for name, value in sent.items() if value})

    async def chat(self, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        asked = {"model": "gpt", "messages": [{"role": "user", "content": "Hi"}], **(body or {})}
        return await self.post("/v1/chat/completions", asked, **headers)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.request("GET", path, b"", {"authorization": f"Bearer {SECRET}", **named})

    async def request(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        caller = Caller()
        await caller.call(self.app, method, path, content, headers)
        return caller.response()


class Caller:
    """An ASGI client that can leave, and that may read slowly."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.messages: list[Any] = []
        self.left = asyncio.Event()
        self.started = asyncio.Event()
        self.stuck_after: int | None = None
        """Chunks after which the caller stops reading."""
        self._sent_body = False
        self._progressed = asyncio.Event()
        self._reads_on = asyncio.Event()

    def go_on(self) -> None:
        """Read again, after having stopped."""
        self._reads_on.set()

    async def got(self, chunks: int) -> None:
        """Wait until so many chunks have come."""
        while len(self.chunks) < chunks:
            self._progressed.clear()
            await self._progressed.wait()

    async def call(self, app: Any, method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
        plain_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(plain_path),
            "raw_path": plain_path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": (self.address, 50_000),
        }
        self._content = content
        await app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._sent_body:
            self._sent_body = True
            return {"type": "http.request", "body": self._content, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)
        self.started.set()
        self._progressed.set()
        if self.stuck_after is not None and len(self.chunks) > self.stuck_after:
            await self._reads_on.wait()

    @property
    def chunks(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]

    def response(self) -> httpx.Response:
        start = self.messages[0]
        assert not self.messages[-1].get("more_body"), "the answer was not finished"
        return httpx.Response(start["status"], headers=start["headers"], content=b"".join(self.chunks))
