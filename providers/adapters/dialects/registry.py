"""Finds the dialects: every public module of this package that defines one. Nothing lists them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping

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


@functools.cache
def _of_clients() -> tuple[Dialect, ...]:
    return tuple([each for each in _dialects().values() if each.clients])


@functools.lru_cache(maxsize=256)
def dialects_of_client(user_agent: bytes) -> Mapping[str, Dialect]:
    """What a client means where it calls paths of other dialects, by the names of those; empty for nearly all clients."""
    return {each.in_place_of: each for each in _of_clients() if user_agent.startswith(each.clients)}
