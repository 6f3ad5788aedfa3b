"""The rules of the house, checked by reading the source: who may import whom, and what must not be mentioned where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from providers.adapters.registry import adapter_names, get_adapter

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("llmgateway", "providers", "billing", "dashboard")


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Rule:
    """What the modules below `who` may import of ours, and what of anybody's they must not."""

    who: tuple[str, ...]
    ours: tuple[str, ...]
    not_theirs: tuple[str, ...] = ()


# Small pure modules that everybody may use.
NEUTRAL = (
    "billing.windows",
    "billing.histogram",
    "billing.money",
    "llmgateway.conf",
    "llmgateway.key_secrets",
    "llmgateway.validators",
)
ORM = ("django.db", "django.conf", "django.contrib", "rest_framework")

RULES = (
    Rule(("providers.adapters",), ("providers.adapters",), ("django", "socket", "httpx", "aiohttp", "asyncio")),
    Rule(
        ("billing.money", "billing.pricing", "billing.windows", "billing.histogram"),
        ("billing.money", "billing.pricing", "billing.windows", "billing.histogram", "providers.adapters.types"),
        ("django",),
    ),
    Rule(
        ("llmgateway.pipeline",),
        ("llmgateway.pipeline", "providers.adapters", "billing.money", "billing.pricing", "billing.windows", "llmgateway.http", "llmgateway.cel"),
        ("django", "rest_framework"),
    ),
    Rule(
        ("llmgateway.api",),
        ("llmgateway.api", "llmgateway.pipeline", "providers.adapters", "billing.money", "llmgateway.conf"),
        ("django", "rest_framework"),
    ),
    Rule(
        ("llmgateway.stores", "billing.journal", "billing.journal_files"),
        ("llmgateway.stores", "billing.journal", "billing.journal_files", "llmgateway.pipeline.protocols",
         "llmgateway.pipeline.cached_answers",
         "llmgateway.pipeline.errors", "llmgateway.pipeline.snapshot", "billing.money", "billing.windows"),
        ("django",),
    ),
    Rule(("llmgateway.models", "llmgateway.services", "llmgateway.selectors"), ("llmgateway",)),
    Rule(
        ("billing", "providers"),
        ("billing", "providers", "llmgateway"),
    ),
    Rule(("dashboard",), ("dashboard", "billing", "providers", "llmgateway")),
)  # fmt: skip

FORBIDDEN = {
    # (importer, imported): apps know each other through services and selectors only.
    "billing": ("dashboard", "llmgateway.api", "llmgateway.wiring"),
    "providers": ("dashboard", "llmgateway.api", "llmgateway.wiring"),
    "dashboard": ("llmgateway.pipeline", "billing.models", "providers.models", "llmgateway.api", "llmgateway.wiring"),
    "llmgateway.management": ("dashboard",),
    "llmgateway.config_loader": ("dashboard",),
    "llmgateway.wiring": ("dashboard",),
    "llmgateway.models": ("llmgateway.api", "llmgateway.pipeline", "llmgateway.wiring"),
    "llmgateway.services": ("llmgateway.api", "llmgateway.pipeline", "llmgateway.wiring"),
    "llmgateway.selectors": ("llmgateway.api", "llmgateway.pipeline", "llmgateway.wiring"),
}


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path, ast.parse(path.read_text()))
    return found


def is_below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imports(module: Module, *, at_start_only: bool = False) -> Iterator[str]:
    """Names of what it imports, type-checking imports left out: those exist for the type checker alone."""
    for node in _statements(module.tree, at_start_only=at_start_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module.name} imports relatively; write the whole name"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules() else node.module


def _statements(tree: ast.AST, *, at_start_only: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if at_start_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        yield node
        yield from _statements(node, at_start_only=at_start_only)


def rule_of(name: str) -> Rule | None:
    """The most particular rule that speaks of a module."""
    speaking = [(len(who), rule) for rule in RULES for who in rule.who if is_below(name, who)]
    return max(speaking, key=lambda pair: pair[0])[1] if speaking else None


def test_the_source_is_found() -> None:
    assert {"llmgateway.pipeline.gateway", "providers.adapters.base", "billing.journal"} <= modules().keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.who[0])
def test_every_package_imports_only_what_it_may(rule: Rule) -> None:
    offences = [
        f"{module.name} imports {name}"
        for module in modules().values()
        if rule_of(module.name) is rule
        for name in imports(module)
        if (is_below(name, *PACKAGES) and not is_below(name, *rule.ours, *NEUTRAL)) or is_below(name, *rule.not_theirs)
    ]

    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("who", FORBIDDEN)
def test_some_doors_stay_shut(who: str) -> None:
    offences = [
        f"{module.name} imports {name}"
        for module in modules().values()
        if is_below(module.name, who)
        for name in imports(module)
        if is_below(name, *FORBIDDEN[who])
    ]

    assert not offences, "\n".join(offences)


def test_the_apps_know_the_pipelines_contracts_only() -> None:
    contracts = ("llmgateway.pipeline.protocols", "llmgateway.pipeline.errors")
    offences = [
        f"{module.name} imports {name}"
        for module in modules().values()
        if is_below(module.name, "billing", "providers")
        for name in imports(module)
        if is_below(name, "llmgateway.pipeline") and not is_below(name, *contracts)
    ]

    assert not offences, "\n".join(offences)


def test_the_hot_path_knows_no_orm() -> None:
    offences = [
        f"{module.name} imports {name}"
        for module in modules().values()
        if is_below(module.name, "llmgateway.pipeline", "llmgateway.api", "llmgateway.stores", "billing.journal")
        for name in imports(module)
        if is_below(name, *ORM, "llmgateway.models", "billing.models", "providers.models", "llmgateway.settings")
    ]

    assert not offences, "\n".join(offences)


def test_there_are_no_import_cycles() -> None:
    """Among imports that run when a module is loaded, and without what only the type checker sees."""
    graph = {
        name: {each for each in imports(module, at_start_only=True) if each in modules() and each != name}
        for name, module in modules().items()
    }

    assert not _cycle(graph)


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for following in sorted(graph[name]):
            if found := visit(following, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def test_only_one_module_imports_the_http_library() -> None:
    importers = {name for name, module in modules().items() if "httpx" in set(imports(module))}

    assert importers == {"llmgateway.http"}


def test_a_provider_is_one_file() -> None:
    """No other module names a provider, imports its adapter or knows its address. The generic ones may be named."""
    names = adapter_names() - {"openai_compatible", "fake"}
    hosts = {get_adapter(name).base_url.partition("://")[2].partition("/")[0] for name in names} - {""}
    offences = [
        f"{module.name}:{node.lineno} mentions {node.value!r}"
        for module in modules().values()
        if not is_below(module.name, "providers.adapters")
        for node in _code_strings(module)
        if str(node.value) in names
        or any(f"//{host}" in str(node.value) and "such as" not in str(node.value) for host in hosts)
    ]
    offences += [
        f"{module.name} imports {name}"
        for module in modules().values()
        for name in imports(module)
        if is_below(name, *(f"providers.adapters.{each}" for each in adapter_names()))
    ]

    assert not offences, "\n".join(offences)


def _code_strings(module: Module) -> Iterator[ast.Constant]:
    """Strings that do something: not the docs of modules, classes, functions and fields."""
    docs = {
        id(node.value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name for name, module in modules().items()
        if not ast.get_docstring(module.tree) and not (module.is_package and not module.tree.body)
    ]  # fmt: skip

    assert not silent


def test_modules_and_functions_stay_small() -> None:
    long_modules = [name for name, module in modules().items() if len(module.path.read_text().splitlines()) > 500]
    long_functions = [
        f"{name}.{node.name}"
        for name, module in modules().items()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno > 60
    ]

    assert not long_modules + long_functions


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError\(\))")
    marked = [
        f"{name}: {line.strip()}"
        for name, module in modules().items()
        for line in module.path.read_text().splitlines()
        if pattern.search(line) and "issue" not in line
    ]

    assert not marked


def test_the_rules_can_be_broken() -> None:
    """A checker that finds nothing in a bad module proves nothing."""
    bad = Module("llmgateway.pipeline.bad", Path("bad.py"), ast.parse("from django.db import models\nimport dashboard"))

    rule = rule_of(bad.name)

    assert rule is not None
    assert set(imports(bad)) == {"django.db", "dashboard"}
    assert is_below("django.db", *rule.not_theirs)
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
