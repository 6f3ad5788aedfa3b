"""What the hot path knows: one frozen picture of all configuration, swapped whole or patched by row.

Built by `llmgateway.config_loader`, the only door from rows to here. Whatever depends on the clock (start, expiry,
price dates, budget windows) is kept as data and decided per request.

What there are a hundred thousand of are structs, which are made in a twentieth of a dataclass's time, and which the
garbage collector leaves alone: they hold nothing that could refer back to them. `msgspec.structs.replace` copies them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from billing.pricing import PriceVersion
from llmgateway.pipeline.route_rules import (
    CacheRule,
    CacheSettings,
    CircuitRules,
    Fallback,
    HedgeRule,
    LoadRules,
    MirrorRule,
    Parameters,
    Patience,
    Probe,
    RoutingRule,
)
from llmgateway.pipeline.token_counts import TokenCounter
from providers.adapters.base import Adapter
from providers.adapters.types import Headers, Signer

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=65_536)
def parse_address(text: str) -> Address | None:
    """An IPv4 or IPv6 address; mapped addresses (`::ffff:192.0.2.1`) as the IPv4 address they are. None: not one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@dataclass(frozen=True, slots=True)
class Networks:
    """Addresses and networks that are let in. Empty lets nobody in."""

    v4: tuple[tuple[int, int], ...] = ()
    """(network address, netmask) as integers."""
    v6: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, texts: tuple[str, ...]) -> Networks:
        """Raises ValueError for a text that is not an address or network."""
        v4: list[tuple[int, int]] = []
        v6: list[tuple[int, int]] = []
        for text in texts:
            network = ipaddress.ip_network(text)
            into = v4 if network.version == 4 else v6
            into.append((int(network.network_address), int(network.netmask)))
        return cls(tuple(v4), tuple(v6))

    def __contains__(self, address: Address | None) -> bool:
        if address is None:
            return False
        number = int(address)
        networks = self.v4 if address.version == 4 else self.v6
        for base, mask in networks:  # noqa: SIM110  # A generator costs more than the whole comparison.
            if number & mask == base:
                return True
        return False


class Limit(msgspec.Struct, frozen=True, gc=False):
    """At most `amount` of a metric in a period. `counter` names it in the store.

    Per minute it is a token bucket (GCRA): at most `burst` at once, then `amount` a minute. Hours to months are
    calendar windows and part of the counter's name, `total` never resets unless `reset_s` is set, and concurrency
    has no period: a slot is held while the request runs.
    """

    counter: str
    """Unique and stable while the row lives: `limit:<row id>`, and a subject behind it where it counts for each one."""
    name: str
    """For people, in errors and headers: `60 requests per minute`."""
    scope: str
    """`global`, `provider`, `deployment`, `model`, `team`, `key`, `end_user` or `ip`."""
    amount: int
    burst: int
    metric: str = "requests"
    """`requests`, `tokens`, `input_tokens`, `output_tokens`, `concurrency`, or `request_bytes`, which no store counts."""
    per: str = "minute"
    """`minute`, `hour`, `day`, `week`, `month` or `total`; empty for concurrency and `request_bytes`."""
    time_zone: str = "UTC"
    starts_on: int = 0
    """Where a week (1 Monday … 7 Sunday) or a month (day 1 … 28) begins; 0: on Monday, on the 1st."""
    reset_s: int = 0
    """A `total` starts anew every so many seconds, counted from `anchor`; 0: never."""
    anchor: int = 0
    """Seconds since the epoch."""
    model: str = ""
    """Counts for this alias only, and stands for it in place of a rule of the same owner, metric and period without one."""
    each: str = ""
    """`ip`, `end_user` or `model`: every one of them has a counter of its own. Empty: one counter."""
    first_in_window: bool = False
    """An amount larger than what can ever fit is admitted from a full bucket, which goes into debt, not refused."""
    shadow: bool = False
    """Evaluated and reported, never enforced."""
    owner: str = ""
    """Whose rule it is: `key:5`, `team:3`, `provider:2`, `deployment:4`, `alias:1`; empty: everyone's."""


class BudgetRule(msgspec.Struct, frozen=True, gc=False):
    """A budget as the hot path needs it. Its counter's name is `budget:<row id>`, its subject and the window's start."""

    id: int
    name: str
    scope: str
    """`global`, `provider`, `deployment`, `model`, `team`, `key`, `end_user` or `ip`."""
    scope_id: str
    """Row id of the key or team, name of the provider, deployment or alias as ledger rows have it, the end user or the
    address; empty for global."""
    window: str
    """`hour`, `day`, `week`, `month` or `total`."""
    limit_pico_usd: int
    """Credits that never expire included; those that do, and the temporary increase, not."""
    time_zone: str
    """Where the window's midnight is; the team's, or UTC."""
    strict: bool = False
    """Holds the worst case instead of what is expected."""
    starts_on: int = 0
    """As in `Limit`."""
    increase_pico_usd: int = 0
    increase_until: float = 0.0
    """Seconds since the epoch: until then the limit is higher by `increase_pico_usd`."""
    each: str = ""
    """`ip` or `end_user`: every one of them has such a budget. `scope_id` is empty until one is bound."""
    owner: str = ""
    """As in `Limit`: with `each`, whose requests count."""
    credits: tuple[tuple[float, int], ...] = ()
    """Prepaid amounts in pico-dollars with the second since the epoch at which each expires."""

    def limit_at(self, now: float) -> int:
        """Pico-dollars that may be spent in the window, as of `now` (seconds since the epoch)."""
        limit = self.limit_pico_usd
        if self.increase_pico_usd and now < self.increase_until:
            limit += self.increase_pico_usd
        for expires_at, amount in self.credits:
            if now < expires_at:
                limit += amount
        return limit


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What an operator decides about admission as a whole."""

    hold_wait_ms: int = 200
    """How long a request that does not fit a strict budget waits for holds to return."""
    strict_min_output_tokens: int = 256
    """A strict budget never lowers an output cap below this."""
    absent_cap_share: int = 16
    """A request without a cap holds at most this part of what remains of a strict budget: one sixteenth."""
    quota_status: int = 402
    """Status of an exhausted budget or token quota: 402, 403 or 429."""


@dataclass(frozen=True, slots=True)
class Estimation:
    """How tokens are estimated from the text of a body."""

    max_sample_bytes: int = 20_000
    """Up to here text is counted in characters; what is above, in bytes."""
    bytes_per_token: float = 4.0
    chars_per_token: float = 4.0
    counter: TokenCounter | None = field(default=None, repr=False, compare=False)
    """Counts instead, where a provider reported nothing; None: no tokenizer is installed."""


class Key(msgspec.Struct, frozen=True, gc=False):
    """An API key: whose it is, and what it may do."""

    id: str
    """Row id as text, or `file:<name>` for keys of a static file."""
    public_id: str
    name: str
    team_id: int
    """0: no team."""
    team_name: str
    enabled: bool = True
    starts_at: float | None = None
    """Seconds since the epoch."""
    expires_at: float | None = None
    models: frozenset[str] | None = None
    """Aliases it may call; None: all."""
    networks: Networks | None = None
    """Where it may be used from; None: anywhere."""
    limits: tuple[Limit, ...] = ()
    """Its own, its team's and the global ones, those included that are for one model or for each address or end user."""
    budgets: tuple[BudgetRule, ...] = ()
    """The same of budgets."""
    user_id: str = ""
    priority: int = 0
    """When requests must wait for their turn, those of higher priority go first."""
    may_bypass_health: bool = False
    """It may ask to be sent where circuits are open."""
    time_zone: str = "UTC"
    """The team's: in it rules tell the time."""
    tenants: tuple[Key, ...] = ()
    """The same key as each of the other teams that it may act for: with that team's limits, budgets and name."""

    def acting_for(self, tenant: str) -> Key | None:
        """The key as it acts for the team of that name; None: it may not."""
        if tenant == self.team_name:
            return self
        return next((key for key in self.tenants if key.team_name == tenant), None)


class ForeignKey(Key, frozen=True, gc=False, kw_only=True):
    """A caller's own key at a provider, so nobody pays here.

    Either all that the caller has: then its id is its digest, and its limits are everyone's. Or it came beside a key of
    the gateway: then it is that key in everything else, but for the budgets.
    """

    secret: str
    digest: str = ""
    """Of the secret, as bans name it."""
    provider: str = ""
    """The one that it is for; empty: the one under whose prefix it came."""
    is_stranger: bool = True
    """No key of the gateway came with it."""

    def __repr__(self) -> str:
        """Without the secret, wherever it may be written."""
        return f"ForeignKey({self.id})"


@dataclass(frozen=True, slots=True)
class ForeignKeys:
    """That callers may bring their own keys, and on which terms."""

    limits: tuple[Limit, ...] = ()
    """Everyone's, for callers without a key of the gateway."""
    banned: frozenset[bytes] = frozenset()
    """Digests of keys that are not sent on."""
    allowed: bool = True
    """To callers without a key of the gateway, and to teams that `teams` does not name."""
    teams: Mapping[int, bool] = field(default_factory=dict)
    """By id, those that something else holds for."""

    def allow(self, team_id: int) -> bool:
        return self.teams.get(team_id, self.allowed)


class KeyDigest(msgspec.Struct, frozen=True, gc=False):
    """One secret of a key. After a rotation the old one is valid for a while."""

    key: Key
    valid_until: float | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    connect_s: float = 5.0
    first_token_s: float = 60.0
    idle_s: float = 120.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do, as far as that is known. None and empty: it is not."""

    context_window: int | None = None
    """Tokens."""
    max_output_tokens: int | None = None
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()
    tools: bool | None = None
    reasoning: bool | None = None
    deprecated_on: str = ""
    """The day from which on its provider advises against it, such as `2027-01-31`."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model at a provider, ready to be called: headers and prices are compiled once, when it is loaded."""

    id: int
    name: str
    provider: str
    """The provider row's name."""
    adapter: Adapter
    base_url: str
    """Without a trailing slash."""
    model: str
    """The provider's name for the model."""
    headers: Headers = field(repr=False)
    """What authenticates us, and nothing of the client's."""
    signer: Signer | None = field(default=None, repr=False, compare=False)
    """Makes the headers that differ from request to request; None: there are none."""
    timeouts: Timeouts = Timeouts()
    inject_usage: bool = True
    prices: tuple[PriceVersion, ...] = ()
    """Sorted by `effective_from`."""
    limits: tuple[Limit, ...] = ()
    """Its own and its provider's."""
    budgets: tuple[BudgetRule, ...] = ()
    """Its own and its provider's."""
    estimation: Estimation = Estimation()
    batch_prices: tuple[PriceVersion, ...] = ()
    """Where batches cost something else; sorted like `prices`."""
    max_output_tokens: int | None = None
    """The most that the model can say, where that is known: the largest cap that may be sent."""
    max_request_pico_usd: int | None = None
    """What a strict budget holds for a request whose cost cannot be bounded otherwise; None: such are refused."""
    drain_s: float = 0.0
    """How long a stream is read on whose client has left, to learn what it used; 0: it ends at once and is estimated."""
    problem: str = ""
    """Why it cannot be called now (a credential that cannot be read); empty: it can."""
    capabilities: Capabilities = Capabilities()
    probe: Probe | None = None
    draining: bool = False
    """Somebody has taken it out: what runs goes on, nothing new is sent."""
    health_generation: int = 0
    """Raised to forget what is known of its health: a circuit that is open closes."""


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment that may answer for an alias, or another alias that decides further."""

    deployment: Deployment | None
    weight: int = 1
    alias: Alias | None = None
    """In place of a deployment. The loader sees to it that no alias leads back to itself."""
    canary: float = 0.0
    """The share of requests, of 1, that try this target first; the others are balanced without it. 0: no canary."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A model name that applications call."""

    id: int
    name: str
    created: int
    """Seconds since the epoch, as `/v1/models` shows it."""
    strategy: str
    """`weighted`, `round_robin`, `least_in_flight`, `lowest_latency`, `lowest_cost` or `priority`."""
    targets: tuple[Target, ...]
    """Enabled ones only, in order."""
    limits: tuple[Limit, ...] = ()
    """Of the alias itself, whoever calls it."""
    budgets: tuple[BudgetRule, ...] = ()
    retires_at: float | None = None
    """Seconds since the epoch: from then on it is not answered for. None: it stays."""
    replacement: str = ""
    """The model to call in its place; empty: none is named."""
    rules: tuple[RoutingRule, ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    sticky: str = ""
    """`key` or `session`: requests of one of them go to the same target as long as it can answer. Empty: they do not."""
    parameters: Parameters | None = None
    patience: Patience | None = None
    retries: int | None = None
    """In place of everyone's number."""
    cache: CacheRule | None = None
    hedge: HedgeRule | None = None
    mirror: MirrorRule | None = None

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """All that it leads to, each once, those of aliases among its targets included."""
        found: dict[int, Deployment] = {}
        for target in self.targets:
            for deployment in (
                (target.deployment,) if target.deployment else target.alias.deployments if target.alias else ()
            ):
                found.setdefault(deployment.id, deployment)
        return tuple(found.values())

    def is_retired(self, now: float) -> bool:
        """Whether it is not answered for any more, as of `now` (seconds since the epoch)."""
        return self.retires_at is not None and now >= self.retires_at


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and after which waits a target is tried again."""

    attempts: int = 2
    initial_ms: int = 250
    max_ms: int = 8000
    factor: float = 2.0
    """How many times longer each wait is than the one before."""
    jitter: float = 1.0
    """The share of a wait that is left to chance; 1: all of it."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """Something configured that cannot be used as it stands, for `/health` and the admin. Never holds a secret."""

    table: str
    """The database table of the row at fault."""
    row_id: str
    name: str
    """What people call it: `key dev-001`, `credential openai/main`."""
    message: str
    """What is wrong, what it means for requests, and what to do."""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far the log of configuration changes was read when a snapshot was made.

    On PostgreSQL `watermark` is the transaction before which all have ended, and `seen` the entries of later ones
    that are in the snapshot already; on SQLite it is the last entry's id.
    """

    watermark: int = 0
    seen: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All configuration at one moment."""

    revision: int = 0
    """Grows with every swap; shown in `/health`."""
    keys: Mapping[bytes, KeyDigest] = field(default_factory=dict)
    """By digest (32 bytes)."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    """Names of enabled providers."""
    deployments: tuple[Deployment, ...] = ()
    """All enabled ones by name, whether or not an alias leads there."""
    request_body_limit: int = 32 * 2**20
    """Bytes."""
    retries: Retries = Retries()
    admission: AdmissionRules = AdmissionRules()
    circuit: CircuitRules = field(default_factory=CircuitRules)
    load: LoadRules = field(default_factory=LoadRules)
    cache: CacheSettings = field(default_factory=CacheSettings)
    vendor_models: Mapping[str, str] = field(default_factory=dict)
    """What `openai`, `claude` and other names of vendors mean in the simple API: aliases."""
    sources: tuple[SourceRule, ...] = ()
    """Where keys are looked up, in order."""
    budgets: Mapping[int, BudgetRule] = field(default_factory=dict)
    """Every enabled budget by row id, so that new ones can be seeded before they count. Negative: of a static file."""
    foreign: ForeignKeys | None = None
    """None: keys that are not the gateway's are refused everywhere."""
    problems: tuple[ConfigProblem, ...] = ()
    """What could not be used. The rest works."""
    watched_files: tuple[str, ...] = ()
    """Files that were read besides the database; the follower reads them again when they change."""
    position: LogPosition = LogPosition()
    """Up to where it is complete."""


@dataclass(frozen=True, slots=True)
class SourceRule:
    """One place where keys are looked up."""

    name: str
    kind: str
    """`database` or `static_file`."""
    keys: Mapping[bytes, KeyDigest] = field(default_factory=dict)
    """The keys of a static file, by digest; the database's are in `Snapshot.keys`."""
    path: str = ""
    """Of a static file."""
