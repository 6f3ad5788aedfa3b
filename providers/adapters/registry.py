"""Finds the adapters: every public module of this package that defines one. Nothing lists them."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import providers.adapters
from providers.adapters.base import Adapter
from providers.adapters.errors import UnknownAdapterError


@functools.cache
def _adapters() -> dict[str, Adapter]:
    found: dict[str, Adapter] = {}
    for module in pkgutil.iter_modules(providers.adapters.__path__):
        if module.name.startswith("_"):
            continue
        for value in vars(importlib.import_module(f"providers.adapters.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Adapter) and "name" in vars(value):
                found[value.name] = value()
    return found


def adapter_names() -> frozenset[str]:
    return frozenset(_adapters())


@functools.cache
def vendors() -> tuple[str, ...]:
    """The words of the simple API for who makes models, in alphabetical order."""
    return tuple(sorted({adapter.vendor for adapter in _adapters().values() if adapter.vendor}))


def get_adapter(name: str) -> Adapter:
    """The shared instance of the adapter called `name`.

    Raises:
        UnknownAdapterError: there is none; the message lists those there are.
    """
    try:
        return _adapters()[name]
    except KeyError:
        raise UnknownAdapterError(
            f"There is no adapter named {name}; there are {', '.join(sorted(_adapters()))}."
        ) from None


def usual_chars_per_token() -> dict[str, float]:
    """Characters per token by adapter, of those whose models differ from what is usual everywhere else."""
    return {
        name: adapter.chars_per_token
        for name, adapter in _adapters().items()
        if adapter.chars_per_token != Adapter.chars_per_token
    }


def api_key_variables(adapter: Adapter) -> tuple[str, ...]:
    """The environment variables that may hold this provider's key, the preferred one first."""
    return adapter.api_key_variables or (f"{adapter.name.upper().replace('-', '_')}_API_KEY",)
