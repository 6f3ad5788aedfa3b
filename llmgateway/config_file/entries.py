"""What a file says, typed: one class for each noun, in the words of the file. Nothing here knows rows or YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from llmgateway.config_file.problems import Place


@dataclass(slots=True, kw_only=True)
class Entry:
    """Anything the file names, with where it and its fields stand."""

    place: Place
    places: dict[str, Place] = field(default_factory=dict)

    def at(self, name: str) -> Place:
        """Where the field stands; nested ones are written `timeouts.connect_s`."""
        return self.places.get(name) or self.place.child(name)


@dataclass(slots=True, kw_only=True)
class CredentialEntry(Entry):
    name: str
    api_key: str | None
    """`None`: the stored one is kept."""
    enabled: bool | None


@dataclass(slots=True, kw_only=True)
class ProviderEntry(Entry):
    name: str
    adapter: str
    base_url: str
    allow_private_network: bool
    enabled: bool | None
    credentials: list[CredentialEntry]
    limits: list[LimitEntry]
    budgets: list[BudgetEntry]


@dataclass(slots=True, kw_only=True)
class DeploymentEntry(Entry):
    name: str
    provider: str
    credential: str | None
    model: str
    inject_usage: bool
    connect_timeout_s: float
    first_token_timeout_s: float
    idle_timeout_s: float
    total_timeout_s: float
    drain_s: float
    health: dict[str, object]
    """By column: whether and how it is probed."""
    draining: bool | None
    max_output_tokens: int | None
    max_request_pico_usd: int | None
    enabled: bool | None
    limits: list[LimitEntry]
    budgets: list[BudgetEntry]


@dataclass(slots=True, kw_only=True)
class TargetEntry(Entry):
    deployment: str
    """Empty: it is an alias."""
    alias: str
    weight: int
    canary_percent: float


@dataclass(slots=True, kw_only=True)
class RuleEntry(Entry):
    name: str
    when: str
    use: str
    enabled: bool | None


@dataclass(slots=True, kw_only=True)
class FallbackEntry(Entry):
    cause: str
    use: str


@dataclass(slots=True, kw_only=True)
class AliasEntry(Entry):
    name: str
    columns: dict[str, object]
    """By column, what is not said of other rows."""
    cache_embeddings: str
    mirror_alias: str
    targets: list[TargetEntry]
    rules: list[RuleEntry]
    fallbacks: list[FallbackEntry]
    enabled: bool | None
    limits: list[LimitEntry]
    budgets: list[BudgetEntry]


@dataclass(slots=True, kw_only=True)
class PriceEntry(Entry):
    provider: str
    model: str
    effective_from: datetime
    figures: dict[str, int | None]
    """By column of `Price`, in pico-dollars per token; `request` per request."""
    units: dict[str, int]
    """Pico-dollars of what is not counted in tokens, by unit."""
    source: str | None


@dataclass(slots=True, kw_only=True)
class NetworkListEntry(Entry):
    name: str
    networks: list[str]


@dataclass(slots=True, kw_only=True)
class LimitEntry(Entry):
    each: str
    model: str
    metric: str
    per: str
    amount: int
    burst: int | None
    starts_on: str
    reset_seconds: int | None
    reset_anchor: datetime | None
    oversize: str
    shadow: bool
    enabled: bool | None


@dataclass(slots=True, kw_only=True)
class CreditEntry(Entry):
    amount_pico_usd: int
    note: str
    expires_at: datetime | None


@dataclass(slots=True, kw_only=True)
class IncreaseEntry(Entry):
    amount_pico_usd: int
    until: datetime | None
    reason: str


@dataclass(slots=True, kw_only=True)
class BudgetEntry(Entry):
    name: str
    each: str
    window: str
    starts_on: str
    limit_pico_usd: int
    mode: str
    alerts: list[int]
    increase: IncreaseEntry | None
    """`None`: the one that was given otherwise stays."""
    credits: list[CreditEntry] | None
    """As with the increase."""
    enabled: bool | None


@dataclass(slots=True, kw_only=True)
class MemberEntry(Entry):
    email: str
    username: str
    """Stands in place of the address for people who have none."""
    role: str


@dataclass(slots=True, kw_only=True)
class TeamEntry(Entry):
    name: str
    time_zone: str
    own_keys: str
    limits: list[LimitEntry]
    budgets: list[BudgetEntry]
    members: list[MemberEntry]


@dataclass(slots=True, kw_only=True)
class KeyEntry(Entry):
    name: str
    team: str
    secret: str
    """Empty: the stored one is kept, and a new key gets a generated one."""
    digest: str
    pepper: str
    public_id: str
    user_id: str
    models: list[str]
    networks: list[str]
    allowed_ips: list[str]
    starts_at: datetime | None
    expires_at: datetime | None
    priority: int
    may_bypass_health: bool
    tenants: list[str]
    limits: list[LimitEntry]
    budgets: list[BudgetEntry]
    enabled: bool | None


@dataclass(slots=True, kw_only=True)
class SettingsEntry(Entry):
    values: dict[str, object]
    """By column of `GatewaySettings`; only what the file says."""


@dataclass(slots=True, kw_only=True)
class ReporterEntry(Entry):
    name: str
    kind: str
    url: str
    secret: str | None
    """`None`: the stored one is kept."""
    headers: dict[str, str] | None
    """`None`: the stored ones are kept; an empty value keeps the stored one of that name."""
    enabled: bool | None
    allow_private_network: bool
    reports_usage: bool
    reports_budgets: bool
    statuses: list[str]
    teams: list[str]
    api_key_field: str
    includes_cost: bool
    batch_size: int


@dataclass(slots=True, kw_only=True)
class Document:
    """A whole file. `unusable` holds the names, by section, of entries with problems: others may still refer to them."""

    providers: list[ProviderEntry] = field(default_factory=list)
    deployments: list[DeploymentEntry] = field(default_factory=list)
    aliases: list[AliasEntry] = field(default_factory=list)
    prices: list[PriceEntry] = field(default_factory=list)
    networks: list[NetworkListEntry] = field(default_factory=list)
    teams: list[TeamEntry] = field(default_factory=list)
    keys: list[KeyEntry] = field(default_factory=list)
    limits: list[LimitEntry] = field(default_factory=list)
    budgets: list[BudgetEntry] = field(default_factory=list)
    reporters: list[ReporterEntry] = field(default_factory=list)
    settings: SettingsEntry | None = None
    unusable: set[tuple[str, str]] = field(default_factory=set)
