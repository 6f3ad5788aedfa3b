"""From a dead connection on a real socket to the ledger row."""

from __future__ import annotations

import json

import pytest

from llmgateway.pipeline.httpcore_transport import HttpcoreTransport
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.route_rules import CircuitRules
from llmgateway.pipeline.snapshot import Retries
from llmgateway.pipeline.transport import PooledTransport
from llmgateway.pipeline.upstream import Upstream
from tests.fakes import ScriptedUpstream
from tests.gateways import CHAT, House, alias, deployment, snapshot
from tests.pipeline.attempt_scenes import check_returned
from tests.pipeline.transports.scripted import Peer, upstream

_BODY = json.dumps(CHAT).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


@pytest.mark.parametrize(
    ("transport", "cause"),
    [
        (LeanTransport, "stale_connection"),
        (PooledTransport, "stale_connection"),
        (HttpcoreTransport, "connection_broken"),
    ],
)
async def test_every_request_that_an_upstream_has_seen_is_in_the_row(
    transport: type[LeanTransport | PooledTransport | HttpcoreTransport], cause: str
) -> None:
    seen = 0

    async def script(peer: Peer) -> None:
        """Answers once on each connection, and dies with the second request in hand."""
        nonlocal seen
        for answers in (True, False):
            await peer.request()
            seen += 1
            if answers:
                await peer.send(ANSWER)

    async with upstream(script) as server:
        target = deployment(base_url=f"http://127.0.0.1:{server.port}/v1")
        quick = Retries(attempts=1, initial_ms=1, max_ms=10, jitter=0.0)
        place = House(
            ScriptedUpstream(), snapshot(alias("gpt", target), retries=quick, circuit=CircuitRules(mode="off"))
        )
        place.gateway.upstream = Upstream(transport(max_connections=5))

        answers = [await place.chat() for _ in range(2)]
        await place.gateway.upstream.aclose()

    assert [answer.headers["x-gateway-attempts"] for answer in answers] == ["1", "2"]
    assert [[each["cause"] for each in row["attempts"]] for row in place.ledger.closed] == [
        ["completed"],
        [cause, "completed"],
    ]
    assert seen == 3
    check_returned(place, target)
