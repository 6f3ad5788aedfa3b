"""The one row of settings to what the hot path reads. The environment wins over the row, the row over the defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from billing.pricing import PriceVersion, default_price
from llmgateway.conf import Conf
from llmgateway.config_loader._values import as_text, bounded, fields_of
from llmgateway.models import GatewaySettings
from llmgateway.pipeline.route_rules import CacheSettings, CircuitRules, LoadRules
from llmgateway.pipeline.snapshot import AdmissionRules, ConfigProblem, Estimation, Retries
from llmgateway.pipeline.token_counts import installed_counter
from providers.adapters.registry import usual_chars_per_token

Number = TypeVar("Number", int, float)

TABLE = "llmgateway_gatewaysettings"


@dataclass(frozen=True, slots=True)
class EstimationSettings:
    """How tokens are estimated: as the row says for the adapter, else as is usual for it, else as for all."""

    usual: Estimation
    chars_per_token: dict[str, float]
    """By adapter."""

    def of(self, adapter: str) -> Estimation:
        chars = self.chars_per_token.get(adapter)
        if chars is None:
            return self.usual
        return replace(self.usual, chars_per_token=chars)


@dataclass(frozen=True, slots=True)
class LiveSettings:
    request_body_limit: int
    """Bytes."""
    retries: Retries
    admission: AdmissionRules
    estimation: EstimationSettings
    default_price: PriceVersion | None
    """Of models without a price of their own; None: they are unpriced."""
    circuit: CircuitRules
    load: LoadRules
    cache: CacheSettings
    vendor_models: dict[str, str]


def load_settings(conf: Conf, problems: list[ConfigProblem]) -> LiveSettings:
    row = (
        GatewaySettings.objects.defer("chars_per_token_by_provider", "vendor_models").filter(pk=1).first()
        or GatewaySettings()
    )
    return LiveSettings(
        request_body_limit=_first(conf.request_body_limit_mb, row.request_body_limit_mb) * 2**20,
        retries=Retries(
            _first(conf.max_retries, row.retry_attempts),
            _first(conf.initial_backoff, row.retry_initial_ms),
            _first(conf.max_backoff, row.retry_max_ms),
            # A row that was written past every check must not turn the waits around.
            max(1.0, _first(conf.backoff_factor, row.retry_factor)),
            min(1.0, max(0.0, _first(conf.jitter, row.retry_jitter))),
        ),
        admission=AdmissionRules(
            hold_wait_ms=row.hold_wait_ms,
            strict_min_output_tokens=max(1, row.strict_min_output_tokens),
            absent_cap_share=max(1, row.absent_cap_share),
            quota_status=row.quota_status if row.quota_status in GatewaySettings.QuotaStatus.values else 402,
        ),
        estimation=_estimation(row, problems),
        default_price=_default_price(row),
        circuit=_circuit(row),
        load=LoadRules(
            row.max_in_flight, row.max_queued, bounded(row.queue_wait_s, 0, 3_600, otherwise=LoadRules().queue_wait_s)
        ),
        cache=CacheSettings(
            row.cache_enabled if conf.cache_enabled is None else conf.cache_enabled,
            bounded(_first(conf.cache_ttl, row.cache_ttl_s), 1, 31_536_000, otherwise=CacheSettings().ttl_s),
            max(1, row.cache_max_mb),
            row.cache_generation,
        ),
        vendor_models=_vendor_models(problems),
    )


def _circuit(row: GatewaySettings) -> CircuitRules:
    usual = CircuitRules()
    return CircuitRules(
        row.circuit_mode if row.circuit_mode in GatewaySettings.CircuitMode.values else usual.mode,
        max(1, row.circuit_failures),
        bounded(row.circuit_window_s, 1, 86_400, otherwise=usual.window_s),
        bounded(row.circuit_open_s, 0.1, 86_400, otherwise=usual.open_s),
        bounded(row.circuit_wait_s, 0, 600, otherwise=usual.wait_s),
    )


def _default_price(row: GatewaySettings) -> PriceVersion | None:
    if row.default_input_price is None or row.default_output_price is None:
        return None
    return default_price(
        # A row that was written past every check must not pay anybody for using a model.
        input_price=max(0, row.default_input_price),
        output_price=max(0, row.default_output_price),
        request_price=max(0, row.default_request_price or 0),
    )


def _first(wins: Number | None, otherwise: Number) -> Number:
    return otherwise if wins is None else wins


def _estimation(row: GatewaySettings, problems: list[ConfigProblem]) -> EstimationSettings:
    usual = Estimation(
        row.max_sample_bytes,
        _ratio(row.bytes_per_token, Estimation().bytes_per_token),
        _ratio(row.chars_per_token, Estimation().chars_per_token),
        installed_counter(),
    )
    return EstimationSettings(usual, usual_chars_per_token() | _chars_by_adapter(problems))


def _chars_by_adapter(problems: list[ConfigProblem]) -> dict[str, float]:
    numbers = _object("chars_per_token_by_provider", "characters per token by adapter", problems)
    return {name: _ratio(number, Estimation().chars_per_token) for name, number in numbers.items()}


def _vendor_models(problems: list[ConfigProblem]) -> dict[str, str]:
    aliases = _object("vendor_models", "models of vendors", problems)
    return {name: alias for name, alias in aliases.items() if isinstance(alias, str)}


def _object(column: str, label: str, problems: list[ConfigProblem]) -> dict[str, object]:
    """A column of the row that holds an object."""
    stored = GatewaySettings.objects.filter(pk=1).values_list(as_text(column), flat=True).first()
    try:
        return {} if stored is None else fields_of(stored)
    except ValueError:
        message = f"{label} cannot be read and do not count; save the settings again."
        problems.append(ConfigProblem(TABLE, "1", "settings", message))
        return {}


def _ratio(number: object, otherwise: float) -> float:
    """A row that was written past every check must not divide by nothing."""
    return float(number) if isinstance(number, (int, float)) and number > 0 else otherwise
