"""The settings that may change while the gateway runs."""

from __future__ import annotations

from billing.money import pico_from_usd, pico_per_token
from llmgateway.conf import FULL_JITTER
from llmgateway.config_file.entries import SettingsEntry
from llmgateway.config_file.fields import FieldReader, check_value
from llmgateway.models import GatewaySettings
from providers.validators import validate_adapter

# What PostgreSQL's columns hold; SQLite would take more, and the file must mean the same on both.
_INTEGER, _SMALL_INTEGER = 2**31 - 1, 2**15 - 1
DEFAULT_PRICE = ("default_input_price", "default_output_price", "default_request_price")
"""Columns of what models cost that have no price. `default_price: none` in the file takes it away."""


def read_settings(parent: FieldReader) -> SettingsEntry | None:
    """Only what the file says; the rest stays as it is."""
    if not parent.has("settings"):
        return None
    reader = parent.object("settings")
    groups = {name: reader.object(name) for name in ("retries", "admission", "estimation", "circuits", "load", "cache")}
    if reader.says("default_price", "none"):
        default_price: dict[str, object] = dict.fromkeys(DEFAULT_PRICE)
    else:
        groups["default_price"] = reader.object("default_price")
        default_price = _read_default_price(groups["default_price"]) if reader.has("default_price") else {}
    values: dict[str, object] = {
        "request_body_limit_mb": reader.integer("request_body_limit_mb", at_least=1, at_most=_INTEGER),
        "foreign_keys": reader.boolean("foreign_keys"),
        **_read_retries(groups["retries"]),
        **_read_admission(groups["admission"]),
        **_read_estimation(groups["estimation"]),
        **_read_circuits(groups["circuits"]),
        "max_in_flight": groups["load"].integer("max_in_flight", at_most=_INTEGER),
        "max_queued": groups["load"].integer("max_queued", at_most=_INTEGER),
        "queue_wait_s": groups["load"].number("queue_wait_s", at_least=0, at_most=3_600),
        "cache_enabled": groups["cache"].boolean("enabled"),
        "cache_ttl_s": groups["cache"].number("ttl_s", at_least=1, at_most=31_536_000),
        "cache_max_mb": groups["cache"].integer("max_mb", at_least=1, at_most=1_048_576),
        "vendor_models": _read_vendor_models(reader) if reader.has("vendor_models") else reader.text("vendor_models"),
    }
    for group in groups.values():
        group.finish()
    reader.finish()
    if not reader.usable:
        return None
    given = {name: value for name, value in values.items() if value is not None} | default_price
    places = reader.places()
    for group_name, group in groups.items():
        places |= {f"{group_name}.{name}": place for name, place in group.places().items()}
    return SettingsEntry(place=reader.place, places=places, values=given)


def _read_circuits(reader: FieldReader) -> dict[str, object]:
    modes = GatewaySettings.CircuitMode.values
    return {
        "circuit_mode": reader.choice("mode", modes, default="") if reader.has("mode") else reader.text("mode"),
        "circuit_failures": reader.integer("failures", at_least=1, at_most=1000),
        "circuit_window_s": reader.number("window_s", at_least=1, at_most=86_400),
        "circuit_open_s": reader.number("open_s", at_least=0.1, at_most=86_400),
        "circuit_wait_s": reader.number("wait_s", at_least=0, at_most=600),
    }


def _read_vendor_models(parent: FieldReader) -> dict[str, str]:
    """Aliases by the names of vendors; which names there are, the rows' check says."""
    reader = parent.object("vendor_models")
    return {name: reader.text(name) or "" for name in reader.places()}


def _read_default_price(reader: FieldReader) -> dict[str, object]:
    if not reader.usable:
        return {}  # It has no fields, and that has been told.
    figures = (
        reader.money("input", pico_per_token, required=True),
        reader.money("output", pico_per_token, required=True),
        reader.money("request", pico_from_usd),
    )
    return dict(zip(DEFAULT_PRICE, figures, strict=True))


def _read_retries(reader: FieldReader) -> dict[str, object]:
    return {
        "retry_attempts": reader.integer("attempts", at_most=_SMALL_INTEGER),
        "retry_initial_ms": reader.integer("initial_ms", at_most=_INTEGER),
        "retry_max_ms": reader.integer("max_ms", at_most=_INTEGER),
        "retry_factor": reader.number("factor", at_least=1, at_most=10),
        "retry_jitter": 1.0 if reader.says("jitter", FULL_JITTER) else reader.number("jitter", at_least=0, at_most=1),
    }


def _read_admission(reader: FieldReader) -> dict[str, object]:
    status = reader.integer("quota_status")
    if status is not None and status not in GatewaySettings.QuotaStatus.values:
        reader.add("quota_status", f"{status} is not possible here; write 402, 403 or 429.")
    return {
        "hold_wait_ms": reader.integer("hold_wait_ms", at_most=60_000),
        "strict_min_output_tokens": reader.integer("strict_min_output_tokens", at_least=1, at_most=_INTEGER),
        "absent_cap_share": reader.integer("absent_cap_share", at_least=1, at_most=1_000_000),
        "quota_status": status,
    }


def _read_estimation(reader: FieldReader) -> dict[str, object]:
    name = "chars_per_token_by_provider"
    return {
        "max_sample_bytes": reader.integer("max_sample_bytes", at_most=_INTEGER),
        "bytes_per_token": reader.number("bytes_per_token", at_least=0.1, at_most=1000),
        "chars_per_token": reader.number("chars_per_token", at_least=0.1, at_most=1000),
        name: _read_by_adapter(reader.object(name)) if reader.has(name) else reader.text(name),
    }


def _read_by_adapter(reader: FieldReader) -> dict[str, float]:
    numbers = {name: reader.number(name, at_least=0.1, at_most=1000) for name in reader.places()}
    for name in numbers:
        check_value(name, reader.at(name), reader.problems, validate_adapter)
    return {name: number for name, number in numbers.items() if number is not None}
