"""What holds for everyone: global limits and budgets, and the one row of settings."""

from __future__ import annotations

from functools import partial

from billing.models import Budget
from billing.price_figures import figure_text
from llmgateway.config_file.apply.limits import apply_budgets, apply_limits
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import SettingsEntry
from llmgateway.config_file.report import as_text
from llmgateway.models import GatewaySettings, RateLimit
from llmgateway.rule_owners import is_of_everyone

SETTINGS_FIELDS = {
    "request_body_limit_mb": "request_body_limit_mb",
    "foreign_keys": "foreign_keys",
    "retry_attempts": "retries.attempts",
    "retry_initial_ms": "retries.initial_ms",
    "retry_max_ms": "retries.max_ms",
    "retry_factor": "retries.factor",
    "retry_jitter": "retries.jitter",
    "hold_wait_ms": "admission.hold_wait_ms",
    "strict_min_output_tokens": "admission.strict_min_output_tokens",
    "absent_cap_share": "admission.absent_cap_share",
    "quota_status": "admission.quota_status",
    "default_input_price": "default_price.input",
    "default_output_price": "default_price.output",
    "default_request_price": "default_price.request",
    "max_sample_bytes": "estimation.max_sample_bytes",
    "bytes_per_token": "estimation.bytes_per_token",
    "chars_per_token": "estimation.chars_per_token",
    "chars_per_token_by_provider": "estimation.chars_per_token_by_provider",
    "circuit_mode": "circuits.mode",
    "circuit_failures": "circuits.failures",
    "circuit_window_s": "circuits.window_s",
    "circuit_open_s": "circuits.open_s",
    "circuit_wait_s": "circuits.wait_s",
    "max_in_flight": "load.max_in_flight",
    "max_queued": "load.max_queued",
    "queue_wait_s": "load.queue_wait_s",
    "cache_enabled": "cache.enabled",
    "cache_ttl_s": "cache.ttl_s",
    "cache_max_mb": "cache.max_mb",
    "vendor_models": "vendor_models",
}


def apply_for_everyone(session: Session) -> None:
    """Global limits, global budgets and settings."""
    document = session.document
    limits = RateLimit.objects.filter(is_of_everyone())
    apply_limits(session, None, limits, document.limits)
    budgets = Budget.objects.filter(is_of_everyone()).prefetch_related("credits")
    apply_budgets(session, None, budgets, document.budgets)
    if document.settings is not None:
        _apply_settings(session, document.settings)


def _apply_settings(session: Session, entry: SettingsEntry) -> None:
    """Settings that the file does not name stay as they are."""
    row = GatewaySettings.objects.filter(pk=1).first() or GatewaySettings(pk=1)
    session.put(row, "settings", "of the gateway", entry, entry.values, names=SETTINGS_FIELDS, show=SHOWN)


def _shown(column: str, value: object) -> str:
    return figure_text(column, value) if isinstance(value, int) else as_text(value)


SHOWN = {f"default_{column}_price": partial(_shown, column) for column in ("input", "output", "request")}
