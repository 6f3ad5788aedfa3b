"""Fields that resources share: money, names of other rows, and serializers that refuse what they do not know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.money import (
    MAX_LIMIT_USD,
    PICO_PER_USD,
    MoneyError,
    pico_from_usd,
    pico_per_token,
    plain,
    usd,
    usd_per_million,
)
from llmgateway.management_api.principals import Reach, principal_of
from llmgateway.models import Team

M = TypeVar("M", bound=Model)


# No exponents: `1e999999` would be a number of a million digits.
_PLAIN = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


class _Amount(serializers.Field[int, Any, str, Any]):
    """An exact decimal amount, as text, of what is kept as an integer."""

    default_error_messages = {
        "float": 'Write the amount as text, such as "0.15": numbers with a point are not exact.',
        "not_plain": "{text} is not an amount; write one such as 0.15.",
    }

    def read(self, amount: str) -> int:
        """The integer that `amount` stands for. Raises MoneyError."""
        return pico_from_usd(amount)

    def show(self, pico: int) -> str:
        return plain(usd(pico))

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, (float, bool)):
            self.fail("float")
        text = str(data).strip()
        if not _PLAIN.fullmatch(text):
            self.fail("not_plain", text=text[:40])
        try:
            return self.read(text)
        except MoneyError as error:
            raise serializers.ValidationError(str(error)) from error

    def to_representation(self, value: int) -> str:
        return self.show(value)


_DECIMAL = {"type": "string", "format": "decimal", "example": "12.5"}


@extend_schema_field(_DECIMAL)
class UsdField(_Amount):
    """Dollars, at most 12 decimals."""

    def read(self, amount: str) -> int:
        pico = pico_from_usd(amount)
        if pico < 0:
            raise MoneyError(f"{amount} is negative")
        if pico > MAX_LIMIT_USD * PICO_PER_USD:
            raise MoneyError(f"The largest amount is {MAX_LIMIT_USD:,} USD.")
        return pico


@extend_schema_field({**_DECIMAL, "example": "0.15"})
class UsdPerMillionField(_Amount):
    """Dollars per million tokens, at most 6 decimals."""

    def read(self, amount: str) -> int:
        return pico_per_token(amount)

    def show(self, pico: int) -> str:
        return plain(usd_per_million(pico))


class NameField(serializers.SlugRelatedField[Any]):
    """Another row by its unique name."""

    default_error_messages = {
        "does_not_exist": "There is no {value} here.",
        "invalid": "Write a name.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="name", **kwargs)


class TeamField(NameField):
    """A team that who asks may write in; any other does not exist for them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(queryset=Team.objects.all(), **kwargs)

    def get_queryset(self) -> QuerySet[Any]:
        return within(Team.objects.all(), "pk", writable(self.context))


def writable(context: Mapping[str, Any]) -> Reach:
    """The teams in which the request of a serializer's context may write."""
    view = context["view"]
    principal = principal_of(context["request"])
    assert principal is not None
    return principal.reach.get(view.write_scope, frozenset())


def within(rows: QuerySet[M], field: str, reach: Reach) -> QuerySet[M]:
    """Those of `rows` whose team `reach` names."""
    return rows if reach is None else rows.filter(**{f"{field}__in": reach})


class Strict(serializers.Serializer[Any]):
    """Refuses fields it does not know and fields that cannot be written: a slip must not pass for a success."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            writable_fields = [name for name, field in self.fields.items() if not field.read_only]
            wrong = {
                name: ["This cannot be written."]
                if name in self.fields
                else [f"There is no such field; there are {', '.join(writable_fields)}."]
                for name in data
                if name not in writable_fields
            }
            if wrong:
                raise serializers.ValidationError(wrong)
        return super().to_internal_value(data)


class StrictModel(Strict, serializers.ModelSerializer[M]):
    """Fields that are unknown, or cannot be written, are refused."""


class Saved(StrictModel[M]):
    # A row that a service saves, whether it is new or changed. A docstring would be the API's description of each of them.

    def create(self, validated_data: Mapping[str, Any]) -> M:
        model: type[M] = self.Meta.model
        return self.update(model(), validated_data)

    def update(self, instance: M, validated_data: Mapping[str, Any]) -> M:
        self.write(instance, dict(validated_data))
        return instance

    def write(self, row: M, columns: dict[str, Any]) -> None:
        """Raises ValidationError by field."""
        raise NotImplementedError
