"""The settings that may change while the gateway runs: one row, which is always there to be read."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway import services
from llmgateway.management_api.errors import PreconditionFailed
from llmgateway.management_api.fields import StrictModel, UsdField, UsdPerMillionField
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Resource, writes
from llmgateway.models import GatewaySettings
from llmgateway.settings_model import overriding_variables


class SettingsSerializer(StrictModel[GatewaySettings]):
    default_input_price = UsdPerMillionField(
        required=False, allow_null=True,
        help_text="USD per million tokens of models without a price; null in all three: such models are unpriced.",
    )  # fmt: skip
    default_output_price = UsdPerMillionField(required=False, allow_null=True, help_text="Likewise.")
    default_request_price = UsdField(required=False, allow_null=True, help_text="USD per request, likewise.")
    chars_per_token_by_provider = serializers.DictField(
        required=False, help_text="In place of what is usual for an adapter's models, by the adapter's name."
    )
    vendor_models = serializers.DictField(
        required=False, help_text="The alias that a vendor's name stands for in the simple API."
    )
    from_environment = serializers.SerializerMethodField(
        help_text="Fields whose value here has no effect, with the environment variable that wins over it."
    )

    class Meta:
        model = GatewaySettings
        fields = (
            "request_body_limit_mb", "foreign_keys", "retry_attempts", "retry_initial_ms", "retry_max_ms",
            "retry_factor", "retry_jitter", "circuit_mode", "circuit_failures", "circuit_window_s", "circuit_open_s",
            "circuit_wait_s", "max_in_flight", "max_queued", "queue_wait_s", "cache_enabled", "cache_ttl_s",
            "cache_max_mb", "cache_generation", "vendor_models", "quota_status", "hold_wait_ms",
            "strict_min_output_tokens", "absent_cap_share", "default_input_price", "default_output_price",
            "default_request_price", "max_sample_bytes", "bytes_per_token", "chars_per_token",
            "chars_per_token_by_provider", "from_environment",
        )  # fmt: skip
        read_only_fields = ("cache_generation",)

    def get_from_environment(self, row: GatewaySettings) -> dict[str, str]:
        return overriding_variables()

    def update(self, instance: GatewaySettings, validated_data: dict[str, Any]) -> GatewaySettings:
        return services.settings_update(**validated_data)


class SettingsViewSet(Resource[GatewaySettings]):
    """The settings that may change while the gateway runs. They concern everybody: no token of a team has them."""

    serializer_class = SettingsSerializer
    read_scope, write_scope = "settings:read", "settings:write"
    pagination_class = None
    filter_backends = ()
    volatile = ("from_environment",)

    def rows(self, reach: Reach) -> QuerySet[GatewaySettings]:
        return GatewaySettings.objects.filter(pk=1)

    def get_object(self) -> GatewaySettings:
        """Without a row, what holds is the defaults."""
        return self.get_queryset().first() or GatewaySettings(pk=1)

    def locked(self) -> GatewaySettings:
        row = self.get_queryset().select_for_update().first() or GatewaySettings(pk=1)
        expected = self.request.headers.get("If-Match", "*")
        if expected != "*" and self.etag(row) not in [each.strip() for each in expected.split(",")]:
            raise PreconditionFailed
        return row

    @extend_schema(operation_id="settings_retrieve", responses=SettingsSerializer)
    def retrieve(self, request: Request) -> Response:
        """What holds now, unless a variable of the environment wins over it."""
        return self.shown(self.get_object())

    @extend_schema(
        operation_id="settings_update", request=SettingsSerializer(partial=True), responses=SettingsSerializer
    )
    @writes
    def partial_update(self, request: Request) -> Response:
        """Change what is named, and leave the rest. It is in force in every process within a second."""
        serializer = self.get_serializer(self.locked(), data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.shown(self.get_object())
