"""Reporters: who is told of each request and of budgets. Their secrets are written and never read."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import UsageReporter
from billing.reporters.trial import send_trial
from llmgateway.management_api.fields import NameField, StrictModel
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from llmgateway.models import Team
from providers.secret_values import is_reference

_OBSERVED = {"delivered": 0, "failed": 0, "failures": 0, "last_delivered_at": None, "last_error": ""}
_NO_REFERENCE = (
    "Write the value itself. References to variables and files stand in the admin or the configuration file."
)


class DeliveriesSerializer(serializers.Serializer[Any]):
    """What deliveries have shown of a receiver."""

    delivered = serializers.IntegerField(help_text="Events, since the reporter was made.")
    failed = serializers.IntegerField(help_text="Attempts that failed, since then.")
    failures = serializers.IntegerField(help_text="Rounds in a row in which nothing was delivered.")
    last_delivered_at = serializers.DateTimeField(allow_null=True)
    last_error = serializers.CharField()


class ReporterSerializer(StrictModel[UsageReporter]):
    receiver = serializers.SerializerMethodField(help_text="The address without its query, which may be a secret.")
    teams = NameField(
        queryset=Team.objects.all(), many=True, required=False, help_text="Only of these teams; of none: of all."
    )
    headers_sent = serializers.SerializerMethodField(help_text="The names of the headers that go with every event.")
    deliveries = serializers.SerializerMethodField()

    class Meta:
        model = UsageReporter
        fields: tuple[str, ...] = (
            "id", "name", "kind", "receiver", "enabled", "reports_usage", "reports_budgets", "statuses", "teams",
            "api_key_field", "includes_cost", "batch_size", "allow_private_network", "headers_sent", "deliveries",
            "created_at",
        )  # fmt: skip

    def get_receiver(self, reporter: UsageReporter) -> str:
        parts = urlsplit(reporter.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def get_headers_sent(self, reporter: UsageReporter) -> list[str]:
        return sorted(reporter.stored_headers())

    @extend_schema_field(DeliveriesSerializer)
    def get_deliveries(self, reporter: UsageReporter) -> Any:
        state = getattr(reporter, "state", None)
        return DeliveriesSerializer(_OBSERVED if state is None else state).data


class ReporterWriteSerializer(ReporterSerializer):
    """What may be written: besides the above its address, secret and headers."""

    url = serializers.CharField(max_length=1000, help_text="As in the admin: without a password; that is the secret.")
    signing_secret = serializers.CharField(
        max_length=10_000,
        write_only=True,
        required=False,
        help_text="Of a webhook: `whsec_…`; a new webhook without one gets one. Of a database: its password.",
    )
    headers = serializers.DictField(
        child=serializers.CharField(max_length=10_000), write_only=True, required=False,
        help_text="Sent with every event, in place of the present ones. They are kept encrypted.",
    )  # fmt: skip

    class Meta(ReporterSerializer.Meta):
        fields = (*ReporterSerializer.Meta.fields, "url", "signing_secret", "headers")
        extra_kwargs = {"url": {"write_only": True}}

    def validate_signing_secret(self, secret: str) -> str:
        if is_reference(secret):
            # Else whoever may write reporters could have any variable of the server sent to them.
            raise serializers.ValidationError(_NO_REFERENCE)
        return secret

    def validate_headers(self, headers: dict[str, str]) -> dict[str, str]:
        if any(is_reference(value) for value in headers.values()):
            raise serializers.ValidationError(_NO_REFERENCE)
        return headers


class CreatedReporterSerializer(ReporterSerializer):
    signing_secret = serializers.CharField(
        allow_null=True, help_text="Of a new webhook for which none was given: shown this once."
    )

    class Meta(ReporterSerializer.Meta):
        fields = (*ReporterSerializer.Meta.fields, "signing_secret")


class TrialSerializer(serializers.Serializer[Any]):
    """How sending a test event went."""

    ok = serializers.BooleanField()
    error = serializers.CharField(help_text="Why not; empty if it went well.")


class ReporterFilters(NameFilters):
    kind = django_filters.ChoiceFilter(choices=UsageReporter.Kind.choices)
    enabled = django_filters.BooleanFilter("enabled")


class ReporterViewSet(Readable[UsageReporter]):
    """Webhooks and other databases that are told of each request. They concern everybody: no token of a team has them."""

    serializer_class = ReporterSerializer
    read_scope, write_scope = "reporters:read", "reporters:write"
    filterset_class = ReporterFilters
    search_fields = ("name",)
    ordering_fields = ("name", "created_at", "id")
    ordering = ("name",)
    volatile = ("deliveries",)

    def rows(self, reach: Reach) -> QuerySet[UsageReporter]:
        return UsageReporter.objects.select_related("state").prefetch_related("teams")

    @extend_schema(request=ReporterWriteSerializer, responses={201: CreatedReporterSerializer})
    @writes
    def create(self, request: Request) -> Response:
        """Create a reporter. The answer shows the secret that a webhook signs with if none was given, this once."""
        given = self._read(request)
        reporter = UsageReporter()
        made = self._write(reporter, given)
        return self.shown(self.get_queryset().get(pk=reporter.pk), status.HTTP_201_CREATED, signing_secret=made)

    @extend_schema(request=ReporterWriteSerializer, responses=ReporterSerializer)
    @writes
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change what is named. For another address write its secrets again: the present ones belong to the present one."""
        reporter = self.locked()
        given = self._read(request, reporter)
        _check_address(reporter, given)
        self._write(reporter, given)
        return self.shown(self.get_queryset().get(pk=reporter.pk))

    @extend_schema(responses={204: None})
    @writes
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete it, with the events that still wait for it."""
        self.locked().delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=TrialSerializer)
    @action(detail=True, methods=["post"], url_path="test")
    def send_test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send a test event now and say how it went; of a database only its table is made sure of."""
        outcome = send_trial(self.get_object())
        return Response(TrialSerializer({"ok": outcome.ok, "error": outcome.error}).data)

    def _read(self, request: Request, reporter: UsageReporter | None = None) -> dict[str, Any]:
        context = self.get_serializer_context()
        serializer = ReporterWriteSerializer(reporter, data=request.data, partial=reporter is not None, context=context)
        serializer.is_valid(raise_exception=True)
        given: dict[str, Any] = serializer.validated_data
        return given

    def _write(self, reporter: UsageReporter, given: dict[str, Any]) -> str | None:
        """Returns the secret that was made here, if one was."""
        teams, secret = given.pop("teams", None), given.pop("signing_secret", None)
        headers = given.pop("headers", None)
        for name, value in given.items():
            setattr(reporter, name, value)
        made = None
        try:
            if secret is not None:
                reporter.set_secret(secret)
            elif reporter.is_webhook and not reporter.encrypted_secret:
                made = reporter.make_secret()
        except ValidationError as error:
            raise ValidationError({"signing_secret": error.messages}) from None
        try:
            if headers is not None:
                reporter.set_headers(headers)
        except ValidationError as error:
            raise ValidationError({"headers": error.messages}) from None
        reporter.full_clean()
        reporter.save()
        if teams is not None:
            reporter.teams.set(teams)
        return made


def _check_address(reporter: UsageReporter, given: dict[str, Any]) -> None:
    """Stored secrets must not go where somebody who may not read them has just pointed them.

    Raises:
        ValidationError: they would.
    """
    if given.get("url", reporter.url) == reporter.url and given.get("kind", reporter.kind) == reporter.kind:
        return
    if reporter.encrypted_headers and "headers" not in given:
        raise ValidationError({"headers": "They belong to the present address; write them again for the new one."})
    if not reporter.is_webhook and reporter.encrypted_secret and "signing_secret" not in given:
        raise ValidationError({"signing_secret": "It belongs to the present address; write it again for the new one."})
