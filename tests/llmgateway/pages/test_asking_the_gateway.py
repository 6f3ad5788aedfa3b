"""Pages that ask the running gateway are made in its process. Who adds one finds out here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from llmgateway.pages.relay import ASK_THE_GATEWAY
from tests.test_architecture import imports, modules

KNOWN = {"llmgateway.asgi", "llmgateway.management.commands.serve", "llmgateway.explain.here"}
"""Modules that may have the running gateway. Whatever imports the last of them is a page that asks it."""
ASKS = "llmgateway.explain.here"


def test_nobody_else_has_the_running_gateway() -> None:
    importers = {module.name for module in modules().values() if "llmgateway.wiring" in set(imports(module))}

    assert importers == KNOWN, "a page that asks the gateway must be among llmgateway.pages.relay.ASK_THE_GATEWAY"


def views(resolver: URLResolver, before: str = "/") -> Iterator[tuple[str, Any]]:
    """Every path, as far as it is always the same, and what answers it."""
    for entry in resolver.url_patterns:
        path = before + str(entry.pattern).removeprefix("^")
        if isinstance(entry, URLResolver):
            yield from views(entry, path)
        elif isinstance(entry, URLPattern):
            yield path, entry.callback


def module_of(view: Any) -> str:
    """The module of a view, whatever it is wrapped in."""
    view = getattr(view, "__wrapped__", view)
    found: str = getattr(view, "cls", getattr(view, "view_class", view)).__module__
    return found


def test_every_page_that_asks_it_is_made_in_its_process() -> None:
    asking = {module.name for module in modules().values() if ASKS in set(imports(module))}
    found = {path for path, view in views(get_resolver()) if module_of(view) in asking}

    assert asking <= set(sys.modules)
    assert found, "the pages are not found, and so not looked at"
    assert {path for path in found if not path.startswith(ASK_THE_GATEWAY)} == set()
    assert {each for each in ASK_THE_GATEWAY if not any(path.startswith(each) for path in found)} == set()
