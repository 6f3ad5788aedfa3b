"""How two models did on the same requests: what was mirrored, beside its copies."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing.mirror_pairs import MOST_PAIRS, Comparison, Figures, comparisons, mirror_pairs
from llmgateway.management_api.fields import Strict, UsdField
from llmgateway.management_api.permissions import HasScope
from llmgateway.management_api.principals import principal_of

DEFAULT_SPAN = timedelta(days=1)
LONGEST_SPAN = timedelta(days=31)


class MirrorsQuerySerializer(Strict):
    """Which copies are looked at."""

    since = serializers.DateTimeField(
        required=False, help_text="From this moment on: a day ago if absent, 31 days ago at most."
    )
    alias = serializers.CharField(required=False, max_length=200, help_text="The model that was asked for.")
    mirror = serializers.CharField(required=False, max_length=200, help_text="The model that was asked too.")

    def validate_since(self, since: datetime) -> datetime:
        if timezone.now() - since > LONGEST_SPAN:
            raise serializers.ValidationError(f"Ask for {LONGEST_SPAN.days} days at most.")
        return since


class FiguresSerializer(serializers.Serializer[Any]):
    """One side. Times are of requests that did not fail; null: nothing was measured."""

    failed = serializers.IntegerField()
    ttft_p50_ms = serializers.FloatField(allow_null=True)
    ttft_p95_ms = serializers.FloatField(allow_null=True)
    duration_p50_ms = serializers.FloatField(allow_null=True)
    duration_p95_ms = serializers.FloatField(allow_null=True)
    mean_input_tokens = serializers.FloatField()
    mean_output_tokens = serializers.FloatField()
    cost_usd = UsdField()
    cost_pico_usd = serializers.IntegerField()
    unpriced_requests = serializers.IntegerField()


class ComparisonSerializer(serializers.Serializer[Any]):
    alias = serializers.CharField(help_text="The model that was asked for.")
    mirror = serializers.CharField(help_text="The model that was asked too.")
    requests = serializers.IntegerField(help_text="Each asked of both.")
    original = FiguresSerializer()
    copy = FiguresSerializer()


class ComparisonsSerializer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    truncated = serializers.BooleanField(
        help_text=f"Whether there are more than {MOST_PAIRS} copies; the newest are compared."
    )
    results = ComparisonSerializer(many=True)


class MirrorsView(APIView):
    """Sums of mirrored requests and of their copies, by the two models that were asked, the busiest first.

    Copies belong to no team, so who sees certain teams alone sees none. One by one they are rows of the usage, with
    `mirrored=true`.
    """

    permission_classes = [HasScope]
    read_scope, write_scope = "usage:read", ""
    http_method_names = ["get", "head"]

    @extend_schema(operation_id="mirrors", parameters=[MirrorsQuerySerializer], responses=ComparisonsSerializer)
    def get(self, request: Request) -> Response:
        serializer = MirrorsQuerySerializer(data=request.query_params.dict())
        serializer.is_valid(raise_exception=True)
        query = serializer.validated_data
        since = query.get("since", timezone.now() - DEFAULT_SPAN)
        pairs, truncated = mirror_pairs(since) if _sees_everybody(request) else ([], False)
        found = [
            _shown(each)
            for each in comparisons(pairs)
            if query.get("alias") in {None, each.alias} and query.get("mirror") in {None, each.mirror}
        ]
        answer = ComparisonsSerializer({"since": since, "truncated": truncated, "results": found}).data
        return Response(answer, headers={"Cache-Control": "no-store"})


def _sees_everybody(request: Request) -> bool:
    principal = principal_of(request)
    return principal is not None and principal.has_everywhere(MirrorsView.read_scope)


def _shown(found: Comparison) -> dict[str, Any]:
    return {
        "alias": found.alias,
        "mirror": found.mirror,
        "requests": found.copy.requests,
        "original": _figures(found.original),
        "copy": _figures(found.copy),
    }


def _figures(figures: Figures) -> dict[str, Any]:
    (ttft_50, ttft_95), (duration_50, duration_95) = figures.ttft_us, figures.duration_us
    return {
        "failed": figures.failed,
        "ttft_p50_ms": _ms(ttft_50),
        "ttft_p95_ms": _ms(ttft_95),
        "duration_p50_ms": _ms(duration_50),
        "duration_p95_ms": _ms(duration_95),
        "mean_input_tokens": figures.input_tokens,
        "mean_output_tokens": figures.output_tokens,
        "cost_usd": figures.cost_pico_usd,
        "cost_pico_usd": figures.cost_pico_usd,
        "unpriced_requests": figures.unpriced,
    }


def _ms(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
