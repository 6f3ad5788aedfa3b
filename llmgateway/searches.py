"""Searches among hundreds of thousands of rows: each table is read once, by its indexes where there are some.

`llmgateway.search_indexes` makes those that PostgreSQL needs for parts of names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from django.db import connection, connections
from django.db.models import F, Lookup, Model, Q, QuerySet, Value
from django.db.models.functions import StrIndex, Upper
from django.db.models.lookups import GreaterThan
from django.utils.text import smart_split, unescape_string_literal

from llmgateway.limit_terms import OWNERS

M = TypeVar("M", bound=Model)

MOST_LISTED = 10_000
"""Ids that one query hands to the next. Of what is found more often, the first rows are found soon."""
PART_OF_NAME, WHOLE_NAME = "name__icontains", "name__iexact"
_INDEXED = re.compile(r"\w{3}|\W\w")
MOST_IN = 400
"""Ids that stand in a query one by one, for which every database has room."""


def words_of(search: str) -> list[str]:
    """What was typed into a search, each to be found by itself. Quotes keep words together."""
    return [
        unescape_string_literal(word) if word[0] in "\"'" and word[0] == word[-1] else word
        for word in smart_split(search)
    ]


def part_of(field: str, word: str) -> Q:
    """Rows in whose `field` there is `word`, whatever its case."""
    if connection.vendor != "postgresql" or _INDEXED.search(word):
        return Q(**{f"{field}__icontains": word})
    # Without three letters in a row an index of such has every row looked at, and that twice: so it is hidden here.
    return Q(GreaterThan(StrIndex(Upper(field), Upper(Value(word))), 0))


def of_found(found: QuerySet[M], within: QuerySet[M]) -> QuerySet[M]:
    """`found`, which is a part of `within`, so that it is not searched anew for its count, its order and each page.

    Of a few rows their ids are looked up once, in no order: to have them sorted, a planner may walk through the whole
    table by the index of what they are sorted by.
    """
    ids = _few_ids(found)
    if ids is not None:
        return within.filter(_among("pk", ids))
    found.at_least = _most(found) + 1  # type: ignore[attr-defined]  # for `counted_at_most`, of this very query alone
    return found


def counted_at_most(rows: QuerySet[Any], most: int) -> int:
    """How many there are. Counting stops at `most`, for an exact count reads a large table from end to end."""
    known: int = getattr(rows, "at_least", 0)
    return most if known >= most else rows.order_by()[:most].count()


def owned_by_named(rules: type[Model], lookup: str, term: str, **lookups: str) -> Q:
    """Limits or budgets whose owner has such a name; `lookups` are other ones for certain owners.

    Owners first, then their rows, which have indexes by owner: joined, all rows would be read.
    """
    found = Q(pk__in=[])
    for owner in OWNERS:
        named = lookups.get(owner, lookup)
        owners = rules._meta.get_field(owner).related_model._default_manager.all()  # type: ignore[union-attr]  # noqa: SLF001
        found |= through(owner, owners, named, term)
    return found


def through(relation: str, others: QuerySet[Any], lookup: str, term: str) -> Q:
    """Rows whose `relation` leads to one of `others` that is found so."""
    column = lookup.removesuffix("__icontains")
    ids = _few_ids(others.filter(Q(**{lookup: term}) if column == lookup else part_of(column, term)))
    return Q(**{f"{relation}__{lookup}": term}) if ids is None else _among(f"{relation}_id", ids)


def of_teams(teams: Sequence[Any], keys: QuerySet[Any]) -> Q:
    """Limits or budgets of these teams, and of those of `keys` that are theirs."""
    ids = _few_ids(keys.filter(team__in=teams))
    return Q(team__in=teams) | (Q(key__team__in=teams) if ids is None else _among("key_id", ids))


class _AnyOf(Lookup):
    """PostgreSQL's `= ANY`: thousands of ids are one parameter, where `in` takes as long to write as to answer."""

    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        column, parameters = self.process_lhs(compiler, connection)
        # Of the column's own type: other numbers are compared one by one, and not by a hash table.
        kind = self.lhs.output_field.db_type(connection)
        return f"{column} = ANY(%s::{kind}[])", (*parameters, self.rhs)


def _among(column: str, ids: list[Any]) -> Q:
    # No subquery: PostgreSQL goes through one that fits in no hash table once for each row.
    return Q(**{f"{column}__in": ids}) if len(ids) <= MOST_IN else Q(_AnyOf(F(column), ids))


def _most(rows: QuerySet[Any]) -> int:
    return MOST_LISTED if connections[rows.db].vendor == "postgresql" else MOST_IN


def _few_ids(rows: QuerySet[Any]) -> list[Any] | None:
    """None: there are more than can be listed."""
    most = _most(rows)
    ids = list(rows.order_by().values_list("pk", flat=True)[: most + 1])
    return ids if len(ids) <= most else None


__all__ = [
    "MOST_LISTED",
    "PART_OF_NAME",
    "WHOLE_NAME",
    "counted_at_most",
    "of_found",
    "of_teams",
    "owned_by_named",
    "part_of",
    "through",
    "words_of",
]
