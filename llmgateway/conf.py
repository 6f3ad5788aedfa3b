"""Typed view of our settings, each with its variable, default and meaning.

Values come from the process environment, then from `.env` in the data folder. Nothing here touches the database:
values that an admin may also set there say so by having no default (`None` means "not set here").
"""

from __future__ import annotations

import ipaddress
import math
import os
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, overload

import environ
from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Setting(Generic[T]):
    """One environment variable: its name, how to read it, its default and what it does."""

    def __init__(
        self, name: str, read: Callable[[str], T], default: T, doc: str, *, default_text: str | None = None
    ) -> None:
        self.name = name
        self.read = read
        self.default = default
        self.doc = doc
        self.default_text = default_text if default_text is not None else _as_text(default)

    @overload
    def __get__(self, instance: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, instance: Conf, owner: type) -> T: ...
    def __get__(self, instance: Conf | None, owner: type) -> Setting[T] | T:
        if instance is None:
            return self
        text = instance.values.get(self.name, "").strip()
        if not text:
            return self.default
        try:
            return self.read(text)
        except ValueError as error:
            message = f"{self.name}={text!r} is not usable: {error}. {self.doc}"
            raise ImproperlyConfigured(message) from error


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def boolean(text: str) -> bool:
    """`true/false`, `yes/no`, `on/off`, `1/0`."""
    lowered = text.lower()
    if lowered in environ.Env.BOOLEAN_TRUE_STRINGS:
        return True
    if lowered in {"false", "off", "no", "n", "0"}:
        return False
    raise ValueError("expected true or false")


def words(text: str) -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def networks(*words_too: str) -> Callable[[str], list[str]]:
    """Reads a comma-separated list of addresses and networks; `words_too` are taken as well."""

    def read(text: str) -> list[str]:
        for word in words(text):
            if word not in words_too:
                ipaddress.ip_network(word)
        return words(text)

    return read


def time_zone_name(text: str) -> str:
    if text not in zoneinfo.available_timezones():
        raise ValueError("expected a time zone such as Europe/Berlin or UTC")
    return text


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def positive(text: str) -> int:
    number = whole(text)
    if number < 0:
        raise ValueError("expected a number of at least 0")
    return number


def at_least_one(text: str) -> int:
    number = whole(text)
    if number < 1:
        raise ValueError("expected a number of at least 1")
    return number


def between(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"expected a number from {least:g} to {most:g}")
        return number

    return read


FULL_JITTER = "full"


def share_or_full(text: str) -> float:
    if text.lower() == FULL_JITTER:
        return 1.0
    try:
        return between(0, 1)(text)
    except ValueError:
        raise ValueError("expected `full`, or a fraction from 0 to 1") from None


def port_number(text: str) -> int:
    number = whole(text)
    if not 0 < number < 65536:
        raise ValueError("expected a port between 1 and 65535")
    return number


def existing_file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("expected the path of a file")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text.lower()

    return read


def optional(read: Callable[[str], T]) -> Callable[[str], T | None]:
    return read


class Conf:
    """All settings of one process. Built once, by `conf` below; tests build their own from a dict."""

    data_dir = Setting(
        "GATEWAY_DATA_DIR", lambda text: Path(text).expanduser().resolve(), PROJECT_ROOT / "data",
        "Folder of the SQLite database, secrets, journal, logs and broker files. `--data DIR` sets it.",
        default_text="data",
    )  # fmt: skip
    host = Setting("HOST", str, "127.0.0.1", "Address the gateway listens on.")
    port = Setting("PORT", port_number, 8000, "Port the gateway listens on.")
    workers = Setting(
        "WORKERS", at_least_one, 1,
        "Server processes that share the port. More than one needs PostgreSQL and Redis. `--workers N` sets it.",
    )  # fmt: skip
    pages_process = Setting(
        "PAGES_PROCESS", one_of("auto", "never"), "auto",
        "Admin, dashboard and management API are made in a process of their own, which runs while somebody looks; or never, "
        "which saves its memory and lets pages slow apps' requests.",
    )  # fmt: skip
    log_level = Setting(
        "LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info",
        "Least severe application log line that is written. Access lines are always written.",
    )  # fmt: skip
    debug = Setting("DEBUG", boolean, False, "Django's debug pages. Never in production.")
    secret_key = Setting("SECRET_KEY", str, "", "Signs sessions. Empty: generated once into the data folder.")
    field_keys = Setting[list[str]](
        "GATEWAY_FIELD_KEYS", words, [],
        "Fernet keys that encrypt provider credentials, newest first. Empty: generated once into the data folder.",
    )  # fmt: skip
    key_peppers = Setting[list[str]](
        "GATEWAY_KEY_PEPPERS", words, [],
        "Hex peppers of the API key digests, newest first. Empty: generated once into the data folder.",
    )  # fmt: skip
    database_url = Setting(
        "DATABASE_URL", str, "",
        "PostgreSQL, as `postgres://user:password@host:5432/name`. Empty: SQLite in the data folder.",
    )  # fmt: skip
    redis_url = Setting(
        "REDIS_URL", str, "",
        "Redis for the counters of limits and budgets, the Celery broker and live updates. Empty: one process counts "
        "for itself, and the rest are files in the data folder.",
    )  # fmt: skip
    redis_timeout_ms = Setting(
        "REDIS_TIMEOUT_MS", at_least_one, 75,
        "How long a request waits for its limits and budgets in Redis before REDIS_FAILURE_POLICY decides.",
    )  # fmt: skip
    redis_failure_policy = Setting(
        "REDIS_FAILURE_POLICY", one_of("local", "closed", "open"), "local",
        "While Redis is away: `local` lets every worker use its share of what was left, `closed` refuses whatever has a "
        "limit or budget, `open` lets it pass. Strict budgets and token quotas are refused in any case.",
    )  # fmt: skip
    allowed_hosts = Setting("ALLOWED_HOSTS", words, ["*"], "Host names under which the admin and dashboard answer.")
    csrf_trusted_origins = Setting[list[str]](
        "CSRF_TRUSTED_ORIGINS", words, [], "Origins, with scheme, that may post forms when a proxy ends TLS."
    )
    https = Setting(
        "HTTPS", boolean, False, "Set when a proxy ends TLS: secure cookies, HSTS, and `X-Forwarded-Proto` is trusted."
    )
    trusted_proxies = Setting[list[str]](
        "TRUSTED_PROXIES", networks(), [],
        "Addresses or networks of proxies whose `X-Forwarded-For` is believed. Empty: the peer is the client.",
    )  # fmt: skip
    cors_origins = Setting("CORS_ORIGINS", words, ["*"], "Origins that browsers may call the API from; `*` for all.")
    metrics_access = Setting(
        "METRICS_ACCESS", networks("loopback", "open"), ["loopback"],
        "Who may read `/metrics`: `loopback`, `open`, or addresses and networks.",
    )  # fmt: skip
    metrics_token = Setting("METRICS_TOKEN", str, "", "A bearer token that may read `/metrics` from anywhere.")
    key_headers = Setting(
        "KEY_HEADERS", words, ["authorization", "x-api-key", "api-key", "x-goog-api-key"],
        "Headers searched for the gateway key, in this order; `?key=` comes last. All are stripped before the upstream.",
    )  # fmt: skip
    request_body_limit_mb = Setting(
        "REQUEST_BODY_LIMIT_MB", optional(positive), None, "Largest request body accepted. Unset: the settings row, 32."
    )
    request_body_timeout_s = Setting(
        "REQUEST_BODY_TIMEOUT_S", at_least_one, 300,
        "How long a whole request body may take to arrive, in seconds; then it is answered 408. A pause in it may last 30 s.",
    )  # fmt: skip
    request_head_timeout_s = Setting(
        "REQUEST_HEAD_TIMEOUT_S", at_least_one, 10,
        "How long the headers of a request may take to arrive, in seconds from their first byte on; then it is answered 408.",
    )  # fmt: skip
    write_stall_s = Setting(
        "WRITE_STALL_S", at_least_one, 60,
        "How long a client may not read while an answer waits for it, in seconds; then it is cut off. Less than 1 KB a second "
        "counts as not reading.",
    )  # fmt: skip
    keep_alive_s = Setting(
        "KEEP_ALIVE_S", at_least_one, 75,
        "How long a connection may stay open between requests, in seconds. Longer than load balancers keep theirs, so that "
        "they close first.",
    )  # fmt: skip
    max_connections = Setting(
        "MAX_CONNECTIONS", positive, 0,
        "Clients' connections per process; `0` for as many as open files allow. When they are all in use, newcomers get 503; "
        "health, metrics and the admin still answer.",
    )  # fmt: skip
    max_connections_per_address = Setting(
        "MAX_CONNECTIONS_PER_ADDRESS", positive, 0,
        "Connections per process from one address, TRUSTED_PROXIES left out; beyond them it gets 429. `0` for no limit.",
    )  # fmt: skip
    max_retries = Setting(
        "MAX_RETRIES", optional(positive), None, "Further attempts on the same target. Unset: the settings row, 2."
    )
    initial_backoff = Setting(
        "INITIAL_BACKOFF", optional(positive), None, "First wait before a retry, in ms. Unset: the settings row, 250."
    )
    max_backoff = Setting(
        "MAX_BACKOFF", optional(positive), None, "Longest wait before a retry, in ms. Unset: the settings row, 8000."
    )
    backoff_factor = Setting(
        "BACKOFF_FACTOR", optional(between(1, 10)), None,
        "How many times longer each wait before a retry is than the one before. Unset: the settings row, 2.",
    )  # fmt: skip
    jitter = Setting(
        "JITTER", optional(share_or_full), None,
        "The share of a wait before a retry that is left to chance: `full`, or a fraction from 0 to 1. Unset: the settings "
        "row, `full`.",
    )  # fmt: skip
    cache_enabled = Setting(
        "CACHE_ENABLED",
        optional(boolean),
        None,
        "The one switch of all caches of answers. Unset: the settings row, off.",
    )
    cache_ttl = Setting(
        "CACHE_TTL", optional(between(1, 31_536_000)), None,
        "Seconds for which an answer is kept where neither alias nor request say. Unset: the settings row, 300.",
    )  # fmt: skip
    journal_fsync = Setting(
        "JOURNAL_FSYNC", one_of("interval", "always", "never"), "interval",
        "When the usage journal is forced to disk: every 100 ms, before each answer, or never.",
    )  # fmt: skip
    journal_max_mb = Setting(
        "JOURNAL_MAX_MB", positive, 1024,
        "Size at which an undrained journal stops new requests (503), so that nothing goes unbilled.",
    )  # fmt: skip
    realtime_max_s = Setting(
        "REALTIME_MAX_S", at_least_one, 3600, "How long a realtime session may last, in seconds; then it is closed."
    )
    realtime_idle_s = Setting(
        "REALTIME_IDLE_S", at_least_one, 600,
        "How long both sides of a realtime session may say nothing, in seconds; then it is closed.",
    )  # fmt: skip
    shutdown_grace_s = Setting(
        "SHUTDOWN_GRACE_S", positive, 30, "How long running requests may finish after a stop signal, in seconds."
    )
    stale_config_max_s = Setting(
        "STALE_CONFIG_MAX_S", positive, 0,
        "How long to serve from the last known configuration while the database is away; 0 for no limit.",
    )  # fmt: skip
    max_upstream_connections = Setting(
        "MAX_UPSTREAM_CONNECTIONS", positive, 2000, "Upstream connections per process; 0 for no limit."
    )
    upstream_transport = Setting(
        "UPSTREAM_TRANSPORT", one_of("lean", "aiohttp", "httpcore"), "lean",
        "How upstreams are reached: by the gateway's own HTTP client, or by aiohttp's or httpx's own (`httpcore`), which cost "
        "more processor time, the last by far the most.",
    )  # fmt: skip
    upstream_proxy = Setting(
        "UPSTREAM_PROXY", str, "environment",
        "Proxy to upstreams, as `http://user:password@proxy.example:3128`; `none`; or `environment`: what HTTP_PROXY and "
        "HTTPS_PROXY name. NO_PROXY lists exceptions.",
    )  # fmt: skip
    upstream_ca_file = Setting(
        "UPSTREAM_CA_FILE", existing_file, "",
        "PEM file with authorities that are trusted for upstreams besides the system's.",
    )  # fmt: skip
    upstream_client_certificate = Setting(
        "UPSTREAM_CLIENT_CERTIFICATE", existing_file, "",
        "PEM file with the certificate, and perhaps its key, for upstreams that ask who calls them.",
    )  # fmt: skip
    upstream_client_key = Setting(
        "UPSTREAM_CLIENT_KEY", existing_file, "", "PEM file with that certificate's key, if it has one of its own."
    )
    fake_provider_faults = Setting(
        "FAKE_PROVIDER_FAULTS", existing_file, "",
        "YAML file with rules by which the fake provider of `./gateway demo` fails (docs/game-days.md); it may then also be "
        "told to while it runs. Nothing but the demo reads this.",
    )  # fmt: skip
    health_details = Setting(
        "HEALTH_DETAILS", boolean, True, "Whether `/health` lists providers (never addresses or reasons)."
    )
    time_zone = Setting("TIME_ZONE", time_zone_name, "UTC", "Zone in which the admin and dashboard show times.")
    email_url = Setting(
        "EMAIL_URL", str, "", "Where mail goes, as `smtp+tls://user:password@host:587`. Empty: written to the log."
    )
    email_from = Setting("EMAIL_FROM", str, "llmgateway@localhost", "Who letters of the gateway come from.")
    webhook_retention_days = Setting(
        "WEBHOOK_RETENTION_DAYS", positive, 7,
        "How long delivered events stay in the admin's list of deliveries; those given up stay 90 days.",
    )  # fmt: skip
    usage_retention_days = Setting(
        "USAGE_RETENTION_DAYS", positive, 0,
        "How many days single requests stay in the ledger; `0` keeps them all. Sums of hours stay in any case.",
    )  # fmt: skip
    responses_retention_hours = Setting(
        "RESPONSES_RETENTION_HOURS", positive, 0,
        "How long the gateway keeps conversations of `/v1/responses` whose provider does not, so that "
        "`previous_response_id` works with any model; counted from the last answer. `0` keeps nothing that was said.",
    )  # fmt: skip

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    @classmethod
    def settings(cls) -> Iterator[Setting[Any]]:
        """Every setting, in the order in which they are defined here."""
        return (value for value in vars(cls).values() if isinstance(value, Setting))

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def static_dir(self) -> Path:
        return self.data_dir / "static"

    @property
    def secrets_file(self) -> Path:
        return self.data_dir / "secrets.env"


def read_environment(environment: dict[str, str]) -> dict[str, str]:
    """`environment` laid over the data folder's `.env` and generated secrets."""
    data_dir = Conf(environment).data_dir
    values: dict[str, str] = {}
    for file in (data_dir / "secrets.env", data_dir / ".env"):
        if file.is_file():
            values.update(read_env_file(file))
    return {**values, **environment}


def read_env_file(file: Path) -> dict[str, str]:
    """The variables that `file` sets."""

    class File(environ.Env):  # type: ignore[misc]  # the library has no types
        ENVIRON: ClassVar[dict[str, str]] = {}

    File.read_env(str(file))
    return File.ENVIRON


conf = Conf(read_environment(dict(os.environ)))
