"""Checks the expressions of routing rules for models, forms, the import and the API, by what evaluates them."""

from __future__ import annotations

from django.core.exceptions import ValidationError

from llmgateway.pipeline.conditions import check_expression

MOST_OF_A_CONDITION = 10_000


def validate_condition(value: str) -> None:
    """An expression in CEL that the rules of an alias can evaluate."""
    if len(value) > MOST_OF_A_CONDITION:
        raise ValidationError(
            "An expression has at most %(most)s characters; this one has %(length)s.",
            code="invalid_condition",
            params={"most": MOST_OF_A_CONDITION, "length": len(value)},
        )
    problem = check_expression(value)
    if problem is not None:
        raise ValidationError("%(problem)s", code="invalid_condition", params={"problem": problem})
