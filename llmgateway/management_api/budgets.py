"""Budgets, what they stand at right now, their credit and their temporary increase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing import services
from billing.models import Budget, BudgetCredit
from billing.selectors import BudgetStanding, budget_standings
from llmgateway import conf as conf_module
from llmgateway.management_api.fields import Strict, StrictModel, UsdField
from llmgateway.management_api.owned import NewOwned, Owned, OwnedFilters, OwnedSerializer
from llmgateway.management_api.pagination import Pages
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import writes
from llmgateway.searches import part_of


@dataclass(frozen=True, slots=True)
class Figures:
    """What a budget stands at in the window that contains this moment."""

    limit_pico_usd: int
    """Credit and increase included."""
    settled_pico_usd: int
    held_pico_usd: int
    remaining_pico_usd: int
    subject: str
    """Of a budget for each address or end user: whose figures these are, the one's who has spent most."""
    window_start: datetime | None
    """None: a total has none."""
    window_end: datetime | None

    @classmethod
    def of(cls, standing: BudgetStanding) -> Figures:
        return cls(
            limit_pico_usd=standing.limit_pico_usd,
            settled_pico_usd=standing.settled_pico_usd,
            held_pico_usd=standing.held_pico_usd,
            remaining_pico_usd=standing.remaining_pico_usd,
            subject=standing.subject,
            window_start=_moment(standing.window_start) if standing.window_end is not None else None,
            window_end=None if standing.window_end is None else _moment(standing.window_end),
        )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def add_figures(budgets: Sequence[Any]) -> None:
    """Give each budget its `figures`."""
    for standing in budget_standings(conf_module.conf.journal_dir, budgets=budgets):
        budget: Any = standing.budget
        budget.figures = Figures.of(standing)


class FigureField(UsdField):
    """Dollars of what a budget stands at."""

    def __init__(self, name: str, help_text: str = "") -> None:
        super().__init__(source=f"figures.{name}", read_only=True, help_text=help_text)


def _pico(name: str) -> serializers.IntegerField:
    return serializers.IntegerField(source=f"figures.{name}", read_only=True)


class BudgetSerializer(OwnedSerializer[Budget]):
    """What it stands at is as of now. One for each address or end user stands where the one does that has spent most."""

    limit_usd = UsdField(source="limit_pico_usd", help_text="What may be spent in the window.")
    limit_pico_usd = serializers.IntegerField(read_only=True)
    alerts = serializers.ListField(
        child=serializers.IntegerField(), required=False, help_text="Percents of the limit at which somebody is told."
    )
    increase_usd = UsdField(source="increase_pico_usd", read_only=True, help_text="Added until `increase_until`.")
    limit_now_usd = FigureField("limit_pico_usd", "With credit and increase.")
    limit_now_pico_usd = _pico("limit_pico_usd")
    settled_usd = FigureField("settled_pico_usd", "What ended requests of this window cost.")
    settled_pico_usd = _pico("settled_pico_usd")
    held_usd = FigureField("held_pico_usd", "What running requests hold.")
    held_pico_usd = _pico("held_pico_usd")
    remaining_usd = FigureField("remaining_pico_usd", "What new requests may still hold.")
    remaining_pico_usd = _pico("remaining_pico_usd")
    subject = serializers.CharField(
        source="figures.subject", read_only=True, help_text="The address or end user whose figures these are."
    )
    window_start = serializers.DateTimeField(source="figures.window_start", read_only=True, allow_null=True)
    window_end = serializers.DateTimeField(source="figures.window_end", read_only=True, allow_null=True)

    class Meta:
        model = Budget
        fields = (
            "id", "name", "scope", "key", "team", "provider", "deployment", "alias", "each", "window", "starts_on",
            "mode", "limit_usd", "limit_pico_usd", "alerts", "increase_usd", "increase_pico_usd", "increase_until",
            "increase_reason", "enabled", "limit_now_usd", "limit_now_pico_usd", "settled_usd", "settled_pico_usd",
            "held_usd", "held_pico_usd", "remaining_usd", "remaining_pico_usd", "subject", "window_start", "window_end",
        )  # fmt: skip
        read_only_fields = ("increase_pico_usd", "increase_until", "increase_reason")
        # What cannot stand together the row itself knows, and says it better.
        validators: tuple[Any, ...] = ()

    def to_representation(self, instance: Any) -> Any:
        if not hasattr(instance, "figures"):
            add_figures([instance])
        return super().to_representation(instance)


class NewBudgetSerializer(NewOwned, BudgetSerializer):
    pass


class IncreaseSerializer(Strict):
    increase_usd = UsdField(help_text="By how much the limit is higher; 0 ends an increase at once.")
    increase_until = serializers.DateTimeField(required=False, help_text="Nothing has to be done for it to end.")
    increase_reason = serializers.CharField(required=False, default="", allow_blank=True, max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["increase_usd"] and "increase_until" not in attrs:
            raise serializers.ValidationError({"increase_until": "An increase is for a time; say until when."})
        return attrs


class CreditSerializer(StrictModel[BudgetCredit]):
    amount_usd = UsdField(source="amount_pico_usd")
    amount_pico_usd = serializers.IntegerField(read_only=True)

    class Meta:
        model = BudgetCredit
        fields = ("id", "amount_usd", "amount_pico_usd", "note", "expires_at", "created_at", "created_by")
        read_only_fields = ("created_by",)


class BudgetFilters(OwnedFilters):
    name = django_filters.CharFilter("name", label="The whole name.")
    window = django_filters.ChoiceFilter(choices=Budget.Window.choices)
    mode = django_filters.ChoiceFilter(choices=Budget.Mode.choices)


class BudgetPages(Pages):
    """Smaller ones, for what each budget stands at is summed."""

    max_page_size = 200


class BudgetViewSet(Owned[Budget]):
    """Budgets: how much may be spent in a window, and what they stand at."""

    serializer_class = BudgetSerializer
    new_serializer_class = NewBudgetSerializer
    noun = "budgets"
    read_scope, write_scope = "budgets:read", "budgets:write"
    filterset_class = BudgetFilters
    pagination_class = BudgetPages
    search_fields = ("name", "key__name", "team__name", "provider__name", "deployment__name", "alias__name")
    ordering_fields = ("id", "name", "limit_pico_usd")
    ordering = ("id",)
    volatile = tuple(
        name for name, field in BudgetSerializer().fields.items() if (field.source or "").startswith("figures.")
    )

    def rows(self, reach: Reach) -> QuerySet[Budget]:
        budgets = Budget.objects.select_related("key__team", "team", "provider", "deployment", "alias")
        return self.within_teams(budgets.prefetch_related("credits"), reach)

    def matching(self, word: str) -> Q:
        return super().matching(word) | part_of("name", word)

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        add_figures(page or ())
        return page

    def make(self, columns: dict[str, Any]) -> Budget:
        return services.budget_create(**columns)

    def change(self, row: Budget, columns: dict[str, Any]) -> None:
        services.budget_update(row, **columns)

    @extend_schema(request=NewBudgetSerializer, responses={201: BudgetSerializer})
    def create(self, request: Request) -> Response:
        """Create a budget of at most one of `key`, `team`, `provider`, `deployment` and `alias`; of none: of everyone."""
        return super().create(request)

    @extend_schema(request=IncreaseSerializer, responses=BudgetSerializer)
    @action(detail=True, methods=["post"])
    @writes
    def increase(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Raise the limit until a moment. It replaces an earlier increase; one of 0 ends it."""
        budget = self.owned()
        asked = IncreaseSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        amount = asked.validated_data["increase_usd"]
        if amount:
            until, reason = asked.validated_data["increase_until"], asked.validated_data["increase_reason"]
            services.budget_increase(budget, amount, until=until, reason=reason)
        else:
            services.budget_end_increase(budget)
        return self.shown_again(budget)

    @extend_schema(methods=["GET"], responses=CreditSerializer(many=True), filters=False)
    @extend_schema(methods=["POST"], request=CreditSerializer, responses={201: CreditSerializer})
    @action(detail=True, methods=["get", "post"], pagination_class=Pages, filter_backends=[])
    def credits(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Prepaid credit, which adds to the limit of a budget in total."""
        if request.method == "POST":
            return self._add_credit(request)
        paginator = Pages()
        page = paginator.paginate_queryset(self.get_object().credits.all(), request, view=self) or []
        return paginator.get_paginated_response(CreditSerializer(page, many=True).data)

    @writes
    def _add_credit(self, request: Request) -> Response:
        budget = self.owned()
        asked = CreditSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        columns = asked.validated_data
        credit = services.credit_add(
            budget, columns.pop("amount_pico_usd"), created_by=self.principal.description, **columns
        )
        return Response(CreditSerializer(credit).data, status.HTTP_201_CREATED)
