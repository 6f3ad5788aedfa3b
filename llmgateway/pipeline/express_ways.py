"""What follows from the head of a request and the configuration: who asks, and how to get to a model's targets.

Nothing here is of one key and one model together, of which there are too many: who asks remembers the model asked for
last, and all others are put together from what many share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

from llmgateway.pipeline.authentication import check
from llmgateway.pipeline.errors import GatewayError
from llmgateway.pipeline.recent import Recent
from llmgateway.pipeline.routing import may_call
from llmgateway.pipeline.rules import Rules
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Snapshot
from llmgateway.pipeline.translation import completed
from llmgateway.pipeline.upstream import RawHeaders
from providers.adapters.dialects.base import Dialect
from providers.adapters.types import Operation

if TYPE_CHECKING:
    from llmgateway.pipeline.balancing import Balancer, Heads
    from llmgateway.pipeline.gateway import Gateway
    from llmgateway.pipeline.lean_transport import Posting

MOST_BYTES_OF_BEGINNINGS = 24 * 2**20
"""Memory of how requests to providers begin: for each client software, deployment, and kind of answer."""
_ORDINARY = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION})


class Asker:
    """What the head of a request says, and what follows from it while the configuration is the same."""

    __slots__ = (
        "address", "client_ip", "client_request_id", "dialect", "end_user", "generation", "headers", "key", "model",
        "path", "rules", "secret", "session", "task_type", "valid_from", "valid_until", "voice", "way",
    )  # fmt: skip

    def __init__(
        self,
        *,
        path: str,
        dialect: Dialect,
        secret: bytes,
        headers: RawHeaders,
        client_request_id: str,
        end_user: str,
        session: str,
        task_type: str,
    ) -> None:
        self.address: str | None = None
        """Of the connection that it was said on last; None: it has not been."""
        self.path = path
        self.dialect = dialect
        self.secret = secret
        self.headers = headers
        self.client_ip = ""
        """What that comes to."""
        self.client_request_id = client_request_id
        self.end_user = end_user
        self.session = session
        self.task_type = task_type
        self.generation = -1
        """Of the configuration that the rest follows from."""
        self.key: Key | None = None
        """None: whoever asks must be looked at more closely."""
        self.valid_from = 0.0
        self.valid_until = math.inf
        self.voice: Voice
        """Once there is a key."""
        self.model: str | None = None
        """That was asked for last and is ordinary; `way` and `rules` follow from it."""
        self.way: Way
        self.rules: Rules

    def move(self, address: str, client_ip: str) -> None:
        """The same is said on a connection from elsewhere."""
        self.address, self.client_ip = address, client_ip
        if self.key is None or self.key.networks is not None:
            self.generation = -1


class Voice:
    """What clients with the same software send on to providers: many askers have the same."""

    __slots__ = ("__weakref__", "dialect", "headers")

    def __init__(self, dialect: Dialect, headers: RawHeaders) -> None:
        self.dialect = dialect
        self.headers = headers


class Way(NamedTuple):
    """To the targets of a model, whoever asks for it in one dialect."""

    alias: Alias
    balancer: Balancer
    heads: Heads
    able: tuple[Deployment, ...]


class Beginning(NamedTuple):
    """Of what one voice says to a deployment."""

    voice: Voice
    posting: Posting | None
    """None: it cannot be said as it is."""

    @property
    def weight(self) -> int:
        """Bytes of memory, those of the voice included, which may have nobody else."""
        headers = self.voice.headers
        size = sum(len(name) + len(value) for name, value in headers)
        return 700 + 160 * len(headers) + size + (len(self.posting.start) if self.posting else 0)


class Ways:
    """One per process, used from the event loop alone."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ways: dict[tuple[str, str], Way | None] = {}
        """By dialect and model; None: that is not ordinary. Of models that there are, for callers may make up any number of others."""
        self._voices: WeakValueDictionary[tuple[str, tuple[tuple[bytes, bytes], ...]], Voice] = WeakValueDictionary()
        self._beginnings: Recent[tuple[Voice, int, bool], Beginning] = Recent(MOST_BYTES_OF_BEGINNINGS, _weight)
        """By voice, id of a deployment and whether a stream is asked for."""
        gateway.followers.append(self._forget)

    def look_up(self, asker: Asker, now: float) -> None:
        gateway = self._gateway
        asker.generation = gateway.generation
        asker.key = asker.model = None
        if gateway.snapshot.cache.enabled and gateway.caching is not None:
            return
        found = gateway.known_key(asker.secret)
        if found is None or not found.key.enabled or found.key.may_bypass_health:
            return
        key = found.key
        asker.valid_from = -math.inf if key.starts_at is None else key.starts_at
        ends = [moment for moment in (key.expires_at, found.valid_until) if moment is not None]
        asker.valid_until = min(ends, default=math.inf)
        if not asker.valid_from <= now < asker.valid_until:
            asker.generation = -1  # It is looked at again when its time has come.
            return
        try:
            check(key, client_ip=asker.client_ip, now=now)
        except GatewayError:
            return
        asker.key = key
        said = asker.dialect.name, tuple(asker.headers)
        voice = self._voices.get(said)
        if voice is None:
            voice = self._voices[said] = Voice(asker.dialect, asker.headers)
        asker.voice, asker.headers = voice, voice.headers

    def turn_to(self, asker: Asker, key: Key, model: str) -> bool:
        """Find out what `asker` needs to ask for another model. False: that is not ordinary, or not allowed."""
        alias = self._gateway.snapshot.aliases.get(model)
        if alias is None or not may_call(key, alias):
            return False
        known = asker.dialect.name, alias.name
        if known not in self._ways:
            self._ways[known] = self._way(asker.dialect, alias)
        way = self._ways[known]
        rules = self._gateway.plain_rules(key, alias)
        if way is None or rules.each or rules.sizes:
            return False
        asker.model, asker.way, asker.rules = model, way, rules
        return True

    def _way(self, dialect: Dialect, alias: Alias) -> Way | None:
        features = (alias.rules, alias.parameters, alias.mirror, alias.hedge, alias.sticky, alias.retires_at)
        if any(feature for feature in features) or dialect.refers_to_kept:
            return None
        if dialect.operation not in _ORDINARY or not dialect.json_requests or dialect.measures:
            return None
        found = self._gateway.router.plain_targets(alias, dialect)
        if found is None:
            return None
        balancer, heads, able = found
        if not able or balancer.by_cost or not all(_is_plain(each, dialect) for each in able):
            return None
        return Way(alias, balancer, heads, able)

    def posting(self, voice: Voice, chosen: tuple[Deployment, ...], is_stream: bool) -> Posting | None:
        """None: there is nobody, or it cannot be said to the first."""
        if not chosen:
            return None
        said = voice, chosen[0].id, is_stream
        beginning = self._beginnings.values.get(said)
        if beginning is None:
            headers = completed(voice.headers, voice.dialect)
            posting = self._gateway.upstream.posting(chosen[0], voice.dialect, headers, stream=is_stream)
            beginning = Beginning(voice, posting)
            self._beginnings.put(said, beginning)
        return beginning.posting

    def _forget(self, _: Snapshot) -> None:
        """Another configuration has come into use. Askers find out by its number."""
        self._ways.clear()
        self._beginnings.clear()


def _weight(beginning: Beginning) -> int:
    return beginning.weight


def _is_plain(deployment: Deployment, dialect: Dialect) -> bool:
    """Nothing of its own is to be counted, signed or said in another way."""
    return not (
        deployment.limits
        or deployment.budgets
        or deployment.signer is not None
        or deployment.adapter.dialect_for(dialect) is not dialect
    )
