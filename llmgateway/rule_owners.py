"""Whose a limit or budget is: at most one of several columns says so, and with none of them it is everyone's."""

from __future__ import annotations

from functools import reduce
from operator import or_

from django.db.models import Model, Q

from llmgateway.limit_terms import CALLERS, OWNERS


def _only(owner: str) -> Q:
    """`owner` or none: every other owner's column is empty."""
    return Q(**{f"{other}__isnull": True for other in OWNERS if other != owner})


def of_one_owner() -> Q:
    """At most one of the owners' columns is set. Budgets have the same."""
    return reduce(or_, (_only(owner) for owner in OWNERS))


def is_of_everyone() -> Q:
    """None of the owners' columns is set."""
    return Q(**{f"{owner}__isnull": True for owner in OWNERS})


def is_of_callers() -> Q:
    """It belongs to those who ask for models: a key, a team, or everyone."""
    return Q(**{f"{owner}__isnull": True for owner in OWNERS if owner not in CALLERS})


def owner_errors(row: Model) -> dict[str, str]:
    """What is wrong with the owners of a limit or budget, by field."""
    owners = [owner for owner in OWNERS if getattr(row, f"{owner}_id") is not None]
    if len(owners) > 1:
        return {owners[1]: f"It already belongs to a {owners[0]}; leave one of the two empty."}
    if getattr(row, "each", "") and owners and owners[0] not in CALLERS:
        return {"each": f"Only a key, a team or everyone together has rules for each {EACH_WORDS[row.each]}."}  # type: ignore[attr-defined]
    return {}


EACH_WORDS = {"ip": "address", "end_user": "end user", "model": "model"}
