"""Registers the llmgateway app with Django."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate

GREEDY = ("rest_framework.compat", "unfold.overrides")
"""Modules of others that load whatever is installed, for what is not done here."""
UNUSED = ("requests", "markdown", "pygments", "coreapi", "django.contrib.postgres.fields", "yaml")
"""What they would load. Together it takes 20 MB of every process."""


class _NoCommandLine(ModuleType):
    """In place of `uvicorn.main`, which uvicorn always loads, and which takes 2 MB with what it loads itself."""

    main = run = None

    def __getattr__(self, name: str) -> Any:
        if name != "Server":
            raise AttributeError(name)
        return importlib.import_module("uvicorn.server").Server


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Whoever is imported meanwhile finds none of these modules, unless somebody else has loaded them already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None says that there is no such module.
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


class LlmGatewayConfig(AppConfig):
    name = "llmgateway"
    verbose_name = "Access"

    def import_models(self) -> None:
        # Before any app is ready: the admin's looks for the template tags of all others.
        with _hidden(*UNUSED):
            for name in GREEDY:
                importlib.import_module(name)
        sys.modules.setdefault("uvicorn.main", _NoCommandLine("uvicorn.main"))
        super().import_models()

    def ready(self) -> None:
        from llmgateway import audit, question_vectors, roles, search_indexes, triggers

        audit.register_all()
        post_migrate.connect(roles.create_roles, dispatch_uid="llmgateway.roles")
        pre_migrate.connect(triggers.before_migrate, sender=self, dispatch_uid="llmgateway.triggers.before")
        post_migrate.connect(triggers.after_migrate, sender=self, dispatch_uid="llmgateway.triggers.after")
        post_migrate.connect(question_vectors.make_table, sender=self, dispatch_uid="llmgateway.question_vectors")
        post_migrate.connect(search_indexes.make_indexes, sender=self, dispatch_uid="llmgateway.search_indexes")
