"""Reads of the record of changes: what happened to an object and its parts, in words that people read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from auditlog import get_logentry_model
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist
from django.db.models import DateTimeField, Field, Model, Q, QuerySet

from billing.money import format_usd, plain, usd, usd_per_million
from llmgateway.audit import HIDDEN, object_reference

if TYPE_CHECKING:
    from auditlog.models import LogEntry

VERBS = {0: "Created", 1: "Changed", 2: "Deleted", 3: "Read"}
MAX_VALUE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """One field before and after. Empty text: there was, or is, no value."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the record."""

    at: datetime
    actor: str
    source: str
    remote_address: str
    verb: str
    subject: str
    """What was changed, such as `rate limit 60 requests per minute`."""
    differences: tuple[Difference, ...]


def entries_of(instance: Model) -> QuerySet[Any]:
    """The entries of `instance` and of its parts, newest first."""
    own = Q(content_type=ContentType.objects.get_for_model(instance), object_pk=str(instance.pk))
    entries: QuerySet[Any] = get_logentry_model().objects.filter(own | Q(cid=object_reference(instance)))
    return entries.select_related("actor", "content_type").order_by("-timestamp", "-id")


def latest(limit: int) -> QuerySet[Any]:
    """The newest entries of all objects."""
    entries: QuerySet[Any] = get_logentry_model().objects.select_related("actor", "content_type")
    return entries.order_by("-timestamp", "-id")[:limit]


def changes_of(instance: Model, *, limit: int) -> list[Change]:
    return describe(entries_of(instance)[:limit])


def describe(entries: Iterable[LogEntry]) -> list[Change]:
    return [_change(entry) for entry in entries]


def _change(entry: LogEntry) -> Change:
    model = entry.content_type.model_class()
    kind = str(model._meta.verbose_name) if model else entry.content_type.model  # noqa: SLF001  # Django's documented API
    return Change(
        at=entry.timestamp,
        actor=entry.actor.get_username() if entry.actor else (entry.actor_email or ""),
        source=(entry.additional_data or {}).get("source", ""),
        remote_address=entry.remote_addr or "",
        verb=VERBS.get(entry.action, "Changed"),
        subject=f"{kind} {entry.object_repr}",
        differences=differences(entry),
    )


def differences(entry: LogEntry) -> tuple[Difference, ...]:
    """What `entry` changed, field by field, in the order of the model; empty values of a new row are left out."""
    model = entry.content_type.model_class()
    changes: dict[str, Any] = entry.changes or {}
    order = [field.name for field in model._meta.get_fields()] if model else []  # noqa: SLF001  # Django's documented API
    found = [
        _difference(_field(model, name), name, changes[name])
        for name in sorted(changes, key=lambda name: order.index(name) if name in order else len(order))
        if name != "id"
    ]
    return tuple(difference for difference in found if difference.before or difference.after)


def _field(model: type[Model] | None, name: str) -> Field[Any, Any] | None:
    try:
        field = model._meta.get_field(name) if model else None  # noqa: SLF001  # Django's documented API
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, Field) else None


def _difference(field: Field[Any, Any] | None, name: str, values: Any) -> Difference:
    label = str(field.verbose_name) if field else name.replace("_", " ")
    if isinstance(values, dict):
        names = ", ".join(values.get("objects", ()))
        return Difference(label, names, "") if values.get("operation") == "delete" else Difference(label, "", names)
    before, after = (_text(field, value) for value in values)
    return Difference(label, before, after)


def _text(field: Field[Any, Any] | None, value: Any) -> str:
    if value is None or value in ("", "None", []):
        return ""
    if value == HIDDEN:
        return HIDDEN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return _shortened(", ".join(str(item) for item in value))
    if field is not None and field.is_relation:
        return _related(field, value)
    if field is not None and field.choices:
        return str(dict(field.flatchoices).get(value, value))
    if isinstance(field, DateTimeField):
        return f"{str(value).partition('.')[0]} UTC"
    if field is not None and isinstance(value, int):
        return _number(field, value)
    return _shortened(str(value))


def _number(field: Field[Any, Any], value: int) -> str:
    if field.name.endswith("_pico_usd"):
        return format_usd(value)
    if field.model._meta.label == "billing.Price":  # noqa: SLF001  # Django's documented API
        if field.name == "request":
            return f"{plain(usd(value))} USD"
        return f"{plain(usd_per_million(value))} USD per million"
    return str(value)


def _related(field: Field[Any, Any], value: Any) -> str:
    related: Any = field.related_model
    found = related._default_manager.filter(pk=value).first()  # noqa: SLF001  # Django's documented API
    return str(found) if found else f"deleted (id {value})"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
