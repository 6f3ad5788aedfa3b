"""Prices: each row holds from a moment on and is never edited; a new price is a new row."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import TOKEN_BUCKETS, Price
from billing.money import MoneyError
from billing.unit_prices import read_units, units_in_usd
from llmgateway.management_api.fields import NameField, StrictModel, UsdField, UsdPerMillionField
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from providers.models import Provider

STATES = ("in force", "planned", "superseded")


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class UnitPricesField(serializers.Field[dict[str, int], Any, dict[str, str], Any]):
    """Exact dollars by unit, such as `{"second": "0.0001"}`."""

    def to_representation(self, value: dict[str, int]) -> dict[str, str]:
        return units_in_usd(value)

    def to_internal_value(self, data: Any) -> dict[str, int]:
        if not isinstance(data, dict):
            raise serializers.ValidationError('Write prices by unit, such as {"second": "0.0001"}.')
        try:
            return read_units(data)
        except MoneyError as error:
            raise serializers.ValidationError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


class PriceSerializer(StrictModel[Price]):
    """In USD per million tokens. An absent input price is that of `input`, an absent output price that of `output`."""

    provider = NameField(queryset=Provider.objects.all(), help_text="The provider's name.")
    effective_from = serializers.DateTimeField(required=False, help_text="Absent: from this moment on.")
    state = serializers.SerializerMethodField()
    input = UsdPerMillionField()
    output = UsdPerMillionField(default=0)
    cache_read = UsdPerMillionField(required=False, allow_null=True)
    cache_write_5m = UsdPerMillionField(required=False, allow_null=True)
    cache_write_1h = UsdPerMillionField(required=False, allow_null=True)
    audio_input = UsdPerMillionField(required=False, allow_null=True)
    image_input = UsdPerMillionField(required=False, allow_null=True)
    reasoning = UsdPerMillionField(required=False, allow_null=True)
    audio_output = UsdPerMillionField(required=False, allow_null=True)
    request = UsdField(default=0, help_text="USD per request, beside its tokens.")
    units = UnitPricesField(
        required=False,
        help_text="USD for one of what is not counted in tokens: second, minute, hour, character, image, search, page.",
    )
    pico_usd = serializers.SerializerMethodField(
        help_text="The same as integers: pico-dollars (10⁻¹² USD) per token, `request` per request."
    )

    class Meta:
        model = Price
        fields = (
            "id", "provider", "model", "state", "effective_from", *TOKEN_BUCKETS, "request", "units", "pico_usd", "source",
            "created_at",
        )  # fmt: skip
        # Uniqueness is checked by the row itself, once its moment is known.
        validators: tuple[Any, ...] = ()

    @extend_schema_field(serializers.ChoiceField(choices=STATES))
    def get_state(self, price: Any) -> str:
        if price.effective_from > timezone.now():
            return "planned"
        return "in force" if price.in_force_id == price.pk else "superseded"

    @extend_schema_field({"type": "object", "additionalProperties": {"type": ["integer", "null"]}})
    def get_pico_usd(self, price: Price) -> dict[str, int | None]:
        return {name: getattr(price, name) for name in (*TOKEN_BUCKETS, "request")}

    def create(self, validated_data: dict[str, Any]) -> Price:
        price = Price(**{"effective_from": timezone.now(), **validated_data})
        price.full_clean()
        price.save()
        return price


class PriceFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    provider = django_filters.CharFilter("provider__name", label="The provider's name.")
    model = django_filters.CharFilter("model", label="The provider's name for the model.")
    source = django_filters.CharFilter("source")
    state = django_filters.ChoiceFilter(method="of_state", choices=[(state, state) for state in STATES])
    effective_before = django_filters.IsoDateTimeFilter("effective_from", "lt")
    effective_after = django_filters.IsoDateTimeFilter("effective_from", "gte")

    def of_state(self, prices: QuerySet[Price], _name: str, state: str) -> QuerySet[Price]:
        now = timezone.now()
        if state == "planned":
            return prices.filter(effective_from__gt=now)
        past = prices.filter(effective_from__lte=now)
        newest = Subquery(_in_force(now))
        return past.filter(pk=newest) if state == "in force" else past.exclude(pk=newest)


def _in_force(now: Any) -> QuerySet[Price, Any]:
    """The id of the row that is in force for an outer row's model."""
    same = Price.objects.filter(provider=OuterRef("provider"), model=OuterRef("model"), effective_from__lte=now)
    return same.order_by("-effective_from").values("pk")[:1]


class PriceViewSet(Readable[Price]):
    """Prices, for everybody the same. They cannot be edited: ledger rows point at the price they were charged at."""

    serializer_class = PriceSerializer
    read_scope, write_scope = "prices:read", "prices:write"
    filterset_class = PriceFilters
    search_fields = ("model", "provider__name")
    ordering_fields = ("effective_from", "model", "provider__name", "id")
    ordering = ("provider__name", "model", "-effective_from")
    volatile = ("state",)

    def rows(self, reach: Reach) -> QuerySet[Price]:
        return Price.objects.select_related("provider").annotate(in_force_id=Subquery(_in_force(timezone.now())))

    @extend_schema(request=PriceSerializer, responses={201: PriceSerializer})
    @writes
    def create(self, request: Request) -> Response:
        """Add a price that holds from `effective_from` on. Earlier prices stay as they are."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        price = serializer.save()
        return self.shown(self.get_queryset().get(pk=price.pk), status.HTTP_201_CREATED)
