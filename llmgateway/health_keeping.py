"""What goes on beside requests for the health of deployments: probes, sharing among workers, and the report for people."""

from __future__ import annotations

from llmgateway.conf import Conf
from llmgateway.health_reports import ReportFile
from llmgateway.pipeline.gateway import Gateway
from llmgateway.pipeline.probes import Probes
from llmgateway.pipeline.protocols import Clock
from llmgateway.shared_health import SharedHealth
from llmgateway.stores.redis_store import RedisStore


class HealthKeeping:
    """One per process. Started and stopped on its event loop, while the store runs."""

    def __init__(self, conf: Conf, gateway: Gateway, clock: Clock, redis: RedisStore | None) -> None:
        """`redis`: where workers share what they know; None: every one goes by what it sees itself."""
        self._gateway = gateway
        self._shared = None if redis is None else SharedHealth(redis, gateway.health)
        self._probes = Probes(gateway.health, gateway.upstream, clock, self._shared)
        self._file = ReportFile(conf.data_dir / "run", gateway)

    def start(self) -> None:
        if self._shared is not None:
            self._shared.start()
        self._probes.use(self._gateway.snapshot)
        self._gateway.followers.append(self._probes.use)
        self._file.start()

    async def stop(self) -> None:
        if self._probes.use not in self._gateway.followers:
            return  # It was never started.
        self._gateway.followers.remove(self._probes.use)
        await self._probes.stop()
        if self._shared is not None:
            await self._shared.stop()
        await self._file.stop()
