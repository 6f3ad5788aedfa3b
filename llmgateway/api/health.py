"""`/health` for people and monitors, `/health/live` and `/health/ready` for whoever restarts and routes."""

from __future__ import annotations

from typing import Any, Protocol

from llmgateway.api.exchange import HttpExchange
from llmgateway.pipeline.gateway import Gateway


class Status(Protocol):
    """What the process knows of itself; `llmgateway.wiring` provides it."""

    @property
    def ready(self) -> bool:
        """New requests may come: configuration is loaded, usage can be recorded, no shutdown is under way."""
        ...

    @property
    def version(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """Facts without addresses or secrets: database, journal backlog, configuration revision, ledger."""
        ...

    async def sibling_metrics(self) -> list[bytes]:
        """The pages of metrics of the other workers behind this port."""
        ...


class HealthPages:
    """None needs a key, none is limited, none says why or where."""

    def __init__(self, status: Status, *, details: bool) -> None:
        self._status = status
        self._details = details

    async def live(self, gateway: Gateway, exchange: HttpExchange) -> None:
        """The process runs."""
        await exchange.responder.json(200, {"status": "ok"})

    async def ready(self, gateway: Gateway, exchange: HttpExchange) -> None:
        ready = self._status.ready
        await exchange.responder.json(200 if ready else 503, {"status": "ok" if ready else "unavailable"})

    async def overview(self, gateway: Gateway, exchange: HttpExchange) -> None:
        """Status, version and, unless switched off, each provider as the traffic has shown it lately."""
        facts = self._status.facts()
        degraded = not self._status.ready or facts["database"] != "ok" or facts["ledger"] != "ok"
        answer: dict[str, Any] = {"status": "degraded" if degraded else "ok", "version": self._status.version, **facts}
        if self._details:
            names = gateway.snapshot.providers
            answer["providers"] = {name: gateway.health.state(name) for name in names}
        await exchange.responder.json(200, answer)
