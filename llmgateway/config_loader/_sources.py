"""Where keys are looked up, in order, with the keys of static files."""

from __future__ import annotations

from llmgateway.config_loader._keys import AccessRules
from llmgateway.config_loader._static_file import load_static_file
from llmgateway.models import AuthSource
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, KeyDigest, SourceRule

DATABASE = SourceRule("database", AuthSource.Kind.DATABASE.value)
"""What there is when nobody set up anything else."""


def load_sources(
    rules: AccessRules, problems: list[ConfigProblem], *, pepper: bytes
) -> tuple[tuple[SourceRule, ...], tuple[str, ...]]:
    """The enabled sources, and the files that were read for them."""
    if not AuthSource.objects.exists():
        return (DATABASE,), ()
    sources: list[SourceRule] = []
    files: list[str] = []
    for row in AuthSource.objects.filter(enabled=True).order_by("position", "id"):
        keys: dict[bytes, KeyDigest] = {}
        if row.kind == AuthSource.Kind.STATIC_FILE:
            files.append(row.path)
            keys = load_static_file(row, rules, problems, pepper=pepper)
        sources.append(SourceRule(row.name, row.kind, keys))
    return tuple(sources), tuple(files)


def file_budgets(sources: tuple[SourceRule, ...]) -> dict[int, BudgetRule]:
    """The budgets that only static files know."""
    found = (rule for source in sources for entry in source.keys.values() for rule in entry.key.budgets)
    return {rule.id: rule for rule in found if rule.id < 0}
