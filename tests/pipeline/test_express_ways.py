"""What is remembered of callers and models on the short way is little for each, and bounded for all."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any, cast

import pytest

from llmgateway.key_secrets import digest
from llmgateway.pipeline import express_ways
from llmgateway.pipeline.express_ways import Asker, Ways
from llmgateway.pipeline.lean_transport import LeanTransport
from llmgateway.pipeline.snapshot import KeyDigest
from llmgateway.pipeline.upstream import RawHeaders
from providers.adapters.dialects.registry import get_dialect
from tests.fakes import FakeClock
from tests.gateways import PEPPER, House, alias, deployment, key, snapshot

CHAT = get_dialect("openai.chat")
SDK = [
    (b"user-agent", b"sdk 1.2.3"),
    (b"accept", b"application/json"),
    *[(b"x-sdk-%d" % n, b"x" * 20) for n in range(10)],
]


class Transported:
    def __init__(self) -> None:
        self.transport = LeanTransport(max_connections=0)


def secret(number: int) -> bytes:
    return b"sk-gw-%012d-0123456789abcdef0123456789abcdef" % number


def house(*, keys: int, aliases: int, deployments: int = 1) -> House:
    made = [deployment(id=number + 1, name=f"main-{number}") for number in range(deployments)]
    known = snapshot(*[alias(f"gpt-{number}", made[number % deployments]) for number in range(aliases)])
    of_keys = {digest(secret(number), PEPPER): KeyDigest(key(id=f"key-{number}")) for number in range(keys)}
    return House(cast("Any", Transported()), replace(known, keys=of_keys), FakeClock())


def asker(number: int, headers: RawHeaders) -> Asker:
    return Asker(
        path="/v1/chat/completions", dialect=CHAT, secret=secret(number), headers=headers, client_request_id="",
        end_user="", session="", task_type="",
    )  # fmt: skip


def asked(ways: Ways, who: Asker, model: str) -> bytes:
    """How a request of theirs for a model begins."""
    ways.look_up(who, 0.0)
    assert who.key is not None
    assert ways.turn_to(who, who.key, model)
    posting = ways.posting(who.voice, who.way.able, False)
    assert posting is not None
    return posting.start


def anew(headers: RawHeaders) -> RawHeaders:
    """As another connection brings them."""
    return [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers]


async def test_clients_with_the_same_software_share_what_they_say() -> None:
    ways = Ways(house(keys=3, aliases=2).gateway)
    one, same, other = asker(0, list(SDK)), asker(1, list(SDK)), asker(2, SDK[:-1])

    starts = [asked(ways, who, model) for who in (one, same, other) for model in ("gpt-0", "gpt-1")]

    assert one.voice is same.voice is not other.voice
    assert len({id(start) for start in starts}) == 2
    assert [who.key and who.key.id for who in (one, same, other)] == ["key-0", "key-1", "key-2"]
    assert SDK[-1][0] in starts[0]
    assert SDK[-1][0] not in starts[-1]


async def test_a_thousand_callers_of_a_thousand_models_take_little_for_each() -> None:
    """All callers ask for all models in turn; the last of each is all that is theirs."""
    made = house(keys=1000, aliases=1000)
    ways = Ways(made.gateway)
    callers = [asker(number, list(SDK)) for number in range(1000)]
    for who in callers:
        asked(ways, who, "gpt-0")
    tracemalloc.start()
    try:
        for who in callers[:20]:
            for number in range(1000):
                asked(ways, who, f"gpt-{number}")
            made.gateway._rules.forget()  # They have a bound of their own, and other tests.
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken < 1000 * 2000, "a little for each model, whoever and how many ask for it"


@pytest.mark.parametrize("size", [1, 3000], ids=["short", "long"])
async def test_what_is_said_to_providers_has_a_bound_and_is_said_again(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whoever has a key may make up clients."""
    monkeypatch.setattr(express_ways, "MOST_BYTES_OF_BEGINNINGS", 400_000)
    ways = Ways(house(keys=1, aliases=2, deployments=2).gateway)
    who = asker(0, [(b"x-made-up", b"x" * size)])
    first = asked(ways, who, "gpt-0")
    tracemalloc.start()
    try:
        for number in range(400):
            stranger = asker(0, [*anew(SDK), (b"x-made-up", b"%d" % number * size)])
            asked(ways, stranger, f"gpt-{number % 2}")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert ways._beginnings.weight <= 400_000
    assert 200_000 < taken < 420_000
    assert asked(ways, who, "gpt-0") == first
