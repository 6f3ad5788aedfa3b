"""The ledger, row by row, and its sums by group. To be read; the drain alone writes here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import TOKEN_BUCKETS, UsageRecord
from billing.rollups import MIRRORED, input_tokens, output_tokens
from llmgateway.management_api.fields import UsdField, within
from llmgateway.management_api.filters import Filters, IdFilter, refuse_unknown
from llmgateway.management_api.pagination import NewestFirst
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Resource
from llmgateway.management_api.usage_sums import GROUPS, MAX_GROUPS, Span, usage_sums
from llmgateway.models import ApiKey, Team

DEFAULT_SPAN = timedelta(days=31)
LONGEST_SPAN = timedelta(days=400)


def _a_span_before(until: datetime) -> datetime:
    try:
        return until - DEFAULT_SPAN
    except OverflowError:
        raise ValidationError({"until": "That is too long ago; choose a later moment."}) from None


class UsageRowSerializer(serializers.ModelSerializer[UsageRecord]):
    """A request. Token counts are inclusive: cached tokens count as input, reasoning as output."""

    key = serializers.CharField(source="key_name")
    team = serializers.CharField(source="team_name")
    input_tokens = serializers.SerializerMethodField()
    output_tokens = serializers.SerializerMethodField()
    cache_read_input_tokens = serializers.IntegerField(source="cache_read")
    cache_creation_input_tokens = serializers.SerializerMethodField()
    reasoning_output_tokens = serializers.IntegerField(source="reasoning")
    units = serializers.DictField(
        child=serializers.IntegerField(),
        read_only=True,
        allow_null=True,
        help_text="What is not counted in tokens: milliseconds of sound, characters, images, searches.",
    )
    cost_usd = UsdField(source="cost_pico_usd", read_only=True)
    held_usd = UsdField(source="held_pico_usd", read_only=True)
    saved_usd = UsdField(source="saved_pico_usd", read_only=True, help_text="What a kept answer spared.")
    duration_ms = serializers.SerializerMethodField()
    ttft_ms = serializers.SerializerMethodField()
    overhead_ms = serializers.SerializerMethodField()

    class Meta:
        model = UsageRecord
        fields: tuple[str, ...] = (
            "id", "started_at", "status", "http_status", "error_type", "key_id", "key", "team_id", "team", "end_user",
            "client_request_id", "client_ip", "operation", "path", "alias", "provider", "deployment", "model",
            "response_model", "stream", "input_tokens", "output_tokens", "cache_read_input_tokens",
            "cache_creation_input_tokens", "reasoning_output_tokens", "units", "usage_source", "cost_usd", "cost_pico_usd",
            "reported_cost_pico_usd",
            "held_usd", "held_pico_usd", "price_id", "priced", "default_price", "duration_ms", "ttft_ms", "overhead_ms",
            "cache", "saved_usd", "saved_pico_usd", "mirror_of", "via",
            "own_key",
        )  # fmt: skip

    def get_input_tokens(self, row: UsageRecord) -> int:
        return input_tokens(vars(row))

    def get_output_tokens(self, row: UsageRecord) -> int:
        return output_tokens(vars(row))

    def get_cache_creation_input_tokens(self, row: UsageRecord) -> int:
        return row.cache_write_5m + row.cache_write_1h

    def get_duration_ms(self, row: UsageRecord) -> float:
        return row.duration_us / 1000

    def get_ttft_ms(self, row: UsageRecord) -> float | None:
        return None if row.ttft_us is None else row.ttft_us / 1000

    def get_overhead_ms(self, row: UsageRecord) -> float:
        return row.overhead_us / 1000


class UsageDetailSerializer(UsageRowSerializer):
    """A request with each of its upstream calls, and its tokens in the disjoint kinds that are billed."""

    tokens = serializers.SerializerMethodField(help_text="Disjoint; they add up to what the provider reported.")
    attempts = serializers.SerializerMethodField(help_text="Each upstream call: deployment, status, cause, cost.")

    class Meta(UsageRowSerializer.Meta):
        fields = (*UsageRowSerializer.Meta.fields, "tokens", "attempts")

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "integer"}})
    def get_tokens(self, row: UsageRecord) -> dict[str, int]:
        return {name: getattr(row, name) for name in TOKEN_BUCKETS}

    @extend_schema_field({"type": "array", "items": {"type": "object"}})
    def get_attempts(self, row: UsageRecord) -> Any:
        return row.attempts


class UsageSumSerializer(serializers.Serializer[Any]):
    """One group's sums. `requests` are those that were admitted; the refused never reached a provider."""

    group = serializers.DictField(child=serializers.CharField(), help_text="The value of each `group_by`.")
    requests = serializers.IntegerField()
    refused = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # REST framework takes fields out of the class
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    estimated_requests = serializers.IntegerField()
    unpriced_requests = serializers.IntegerField()
    cost_usd = UsdField(source="cost_pico_usd")
    cost_pico_usd = serializers.IntegerField()


class UsageSummarySerializer(serializers.Serializer[Any]):
    since = serializers.DateTimeField(help_text="Sums are of whole UTC hours: the one in which `since` lies is in it.")
    until = serializers.DateTimeField()
    truncated = serializers.BooleanField(
        help_text=f"Whether there are more than {MAX_GROUPS} groups; the dearest are here."
    )
    results = UsageSumSerializer(many=True)


class UsageFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    key = django_filters.CharFilter(method="of_key", label="The key's name.")
    key_id = django_filters.CharFilter("key_id")
    team = django_filters.CharFilter(method="of_team", label="The team's name.")
    team_id = IdFilter("team_id")
    alias = django_filters.CharFilter("alias", label="The model name that was called.")
    model = django_filters.CharFilter("model", label="The model that was asked of the provider.")
    provider = django_filters.CharFilter("provider")
    deployment = django_filters.CharFilter("deployment")
    status = django_filters.ChoiceFilter(choices=UsageRecord.Status.choices)
    mirrored = django_filters.BooleanFilter(
        method="of_mirrors", label="Only requests that mirror others, or only those that somebody sent."
    )

    # Rows are found by ids, of which there are indexes.
    def of_key(self, rows: QuerySet[Any], _name: str, key: str) -> QuerySet[Any]:
        row_id = ApiKey.objects.filter(name=key).values_list("pk", flat=True).first()
        return rows.filter(key_id=f"file:{key}" if row_id is None else str(row_id))

    def of_team(self, rows: QuerySet[Any], _name: str, team: str) -> QuerySet[Any]:
        row_id = Team.objects.filter(name=team).values_list("pk", flat=True).first()
        return rows.none() if row_id is None else rows.filter(team_id=row_id)

    def of_mirrors(self, rows: QuerySet[Any], _name: str, mirrored: bool) -> QuerySet[Any]:
        found = Q(code=MIRRORED) if rows.model is not UsageRecord else ~Q(mirror_of="")
        return rows.filter(found if mirrored else ~found)


class UsageRowFilters(UsageFilters):
    cache = django_filters.ChoiceFilter("cache", choices=UsageRecord.Cache.choices)
    end_user = django_filters.CharFilter("end_user")
    client_request_id = django_filters.CharFilter("client_request_id")
    since = django_filters.IsoDateTimeFilter(
        "started_at", "gte", label="From this moment on; 31 days before `until` if absent."
    )
    until = django_filters.IsoDateTimeFilter("started_at", "lt", label="Up to this moment; now if absent.")

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().filter_queryset(queryset)
        if not self.form.cleaned_data.get("since"):
            until = self.form.cleaned_data.get("until") or timezone.now()
            rows = rows.filter(started_at__gte=_a_span_before(until))
        return rows


class SumsQuerySerializer(serializers.Serializer[Any]):
    """What the sums are asked for."""

    group_by = serializers.CharField(default="team")
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)

    def validate_group_by(self, text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in names if name not in GROUPS]:
            raise serializers.ValidationError(f"{wrong[0]} is no group; choose of {', '.join(GROUPS)}.")
        return list(dict.fromkeys(names)) or ["team"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        until: datetime = attrs.setdefault("until", timezone.now())
        since: datetime = attrs.get("since") or _a_span_before(until)
        attrs["since"] = since
        if not since < until:
            raise serializers.ValidationError({"since": "It must be before `until`."})
        if until - since > LONGEST_SPAN:
            raise serializers.ValidationError({"since": f"Ask for {LONGEST_SPAN.days} days at most."})
        return attrs


_SUMS_PARAMETERS = [
    OpenApiParameter("group_by", str, description=f"One or several of {', '.join(GROUPS)}, with commas. `team` if absent."),
    OpenApiParameter("since", datetime, description="31 days before `until` if absent; 400 days before it at most."),
    OpenApiParameter("until", datetime, description="Now if absent."),
]  # fmt: skip


class UsageViewSet(mixins.ListModelMixin, Resource[UsageRecord]):
    """What was used and what it cost."""

    serializer_class = UsageRowSerializer
    read_scope = "usage:read"
    pagination_class = NewestFirst
    filterset_class = UsageRowFilters
    lookup_value_regex = "[A-Za-z0-9_-]+"
    filter_backends = [Filters]

    def rows(self, reach: Reach) -> QuerySet[UsageRecord]:
        rows = within(UsageRecord.objects.all(), "team_id", reach)
        return rows if self.action == "retrieve" else rows.defer("usage_raw", "attempts")

    @extend_schema(responses=UsageDetailSerializer, filters=False)
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One request, by the id that its answer carried in `x-request-id`."""
        refuse_unknown(request, self, set())
        row = self.get_queryset().filter(pk=self.kwargs["pk"]).first()
        if row is None:
            raise NotFound("There is no such request here.")
        return Response(UsageDetailSerializer(row, context=self.get_serializer_context()).data)

    @extend_schema(responses=UsageSummarySerializer, parameters=_SUMS_PARAMETERS)
    @action(detail=False, pagination_class=None, filterset_class=UsageFilters)
    def summary(self, request: Request) -> Response:
        """Sums by group, the dearest first."""
        filters = UsageFilters.base_filters
        refuse_unknown(request, self, {*filters, "group_by", "since", "until"})
        query = SumsQuerySerializer(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        span = Span.of(query.validated_data["since"], query.validated_data["until"])
        group_by = query.validated_data["group_by"]
        of_keys = not {"key", "key_id"}.isdisjoint(request.query_params)
        sources = [self._filtered(request, rows) for rows in span.sources(group_by, of_keys=of_keys)]
        found = usage_sums(sources, group_by)
        answer = {
            "since": span.since,
            "until": span.until,
            "truncated": len(found) > MAX_GROUPS,
            "results": found[:MAX_GROUPS],
        }
        return Response(UsageSummarySerializer(answer).data)

    def _filtered(self, request: Request, rows: QuerySet[Any]) -> QuerySet[Any]:
        filterset = UsageFilters(request.query_params, within(rows, "team_id", self.reach))
        if not filterset.is_valid():
            raise ValidationError(filterset.errors.as_data())
        found: QuerySet[Any] = filterset.qs
        return found
