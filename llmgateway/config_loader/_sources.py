"""Where keys are looked up, in order, with the keys of static files."""

from __future__ import annotations

from llmgateway.config_loader._keys import AccessRules
from llmgateway.config_loader._static_file import load_static_file
from llmgateway.models import AuthSource
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, SourceRule

DATABASE = SourceRule("database", AuthSource.Kind.DATABASE.value)
"""What there is when nobody set up anything else."""


def load_sources(rules: AccessRules, problems: list[ConfigProblem], *, pepper: bytes) -> tuple[SourceRule, ...]:
    """The enabled ones. Without any row, it is the database."""
    if not AuthSource.objects.exists():
        return (DATABASE,)
    return tuple(
        _file_source(row, rules, problems, pepper=pepper)
        if row.kind == AuthSource.Kind.STATIC_FILE
        else SourceRule(row.name, row.kind)
        for row in AuthSource.objects.filter(enabled=True).order_by("position", "id")
    )


def _file_source(row: AuthSource, rules: AccessRules, problems: list[ConfigProblem], *, pepper: bytes) -> SourceRule:
    return SourceRule(row.name, row.kind, load_static_file(row, rules, problems, pepper=pepper), row.path)


def files_of(sources: tuple[SourceRule, ...]) -> tuple[str, ...]:
    return tuple(source.path for source in sources if source.path)


def file_budgets(sources: tuple[SourceRule, ...]) -> dict[int, BudgetRule]:
    """The budgets that only static files know."""
    found = (rule for source in sources for entry in source.keys.values() for rule in entry.key.budgets)
    return {rule.id: rule for rule in found if rule.id < 0}
