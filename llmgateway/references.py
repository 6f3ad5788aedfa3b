"""Who leads to a row that is to be deleted, in words: so that they can be led elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Model, prefetch_related_objects

from llmgateway.models import KeyNetwork


def referrer_of(row: Model) -> str:
    """What a person would call it: of a part of an alias, the alias."""
    whole = whole_of(row)
    kind = row._meta.verbose_name  # noqa: SLF001  # Django's documented model API
    if whole is row:
        return f"{kind} {row}"
    if isinstance(row, KeyNetwork):  # Nothing but a tie: nobody calls it anything.
        return f"{whole._meta.verbose_name} {whole}"  # noqa: SLF001  # Django's documented model API
    name = getattr(row, "name", "")
    return f"the {kind} {name} of {whole}" if name else f"the {kind} of {whole}"


def referrers(rows: Iterable[Model]) -> list[str]:
    """Each once, in order."""
    return sorted({referrer_of(row) for row in with_wholes(rows)})


def with_wholes(rows: Iterable[Model]) -> list[Model]:
    """The same, with the keys that they tie read together: a list of addresses may be named by a hundred thousand."""
    found = list(rows)
    prefetch_related_objects([row for row in found if isinstance(row, KeyNetwork)], "key")
    return found


def whole_of(row: Model) -> Model:
    """The row whose page shows this one."""
    if isinstance(row, KeyNetwork):
        return row.key
    alias = getattr(row, "alias", None)
    return alias if isinstance(alias, Model) else row
