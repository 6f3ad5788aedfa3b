"""Finds the dialects: every public module of this package that defines one. Nothing lists them."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import providers.adapters.dialects
from providers.adapters.dialects.base import Dialect


@functools.cache
def _dialects() -> dict[str, Dialect]:
    found: dict[str, Dialect] = {}
    for module in pkgutil.iter_modules(providers.adapters.dialects.__path__):
        if module.name.startswith("_"):
            continue
        for value in vars(importlib.import_module(f"providers.adapters.dialects.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Dialect) and "name" in vars(value):
                found[value.name] = value()
    return found


def dialect_names() -> frozenset[str]:
    return frozenset(_dialects())


@functools.cache
def get_dialect(name: str) -> Dialect:
    """The shared instance of the dialect called `name`. Names come from code, so an unknown one is a `KeyError`."""
    return _dialects()[name]
