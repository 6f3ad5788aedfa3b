"""Who leads to a row that is to be deleted, in words: so that they can be led elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Model


def referrer_of(row: Model) -> str:
    """What a person would call it: of a part of an alias, the alias."""
    whole = whole_of(row)
    kind = row._meta.verbose_name  # noqa: SLF001  # Django's documented model API
    if whole is row:
        return f"{kind} {row}"
    name = getattr(row, "name", "")
    return f"the {kind} {name} of {whole}" if name else f"the {kind} of {whole}"


def referrers(rows: Iterable[Model]) -> list[str]:
    """Each once, in order."""
    return sorted({referrer_of(row) for row in rows})


def whole_of(row: Model) -> Model:
    """The row whose page shows this one."""
    alias = getattr(row, "alias", None)
    return alias if isinstance(alias, Model) else row
