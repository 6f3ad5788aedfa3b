"""Providers: vendors' APIs, or servers of our own that speak one. Their credentials are named, written and never read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.management_api.credentials import SECRET_LENGTH, refuse_reference
from llmgateway.management_api.fields import StrictModel
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from providers import services
from providers.models import Provider
from providers.validators import validate_credential_secret, validate_provider_name

CREDENTIALS_SCOPE = "credentials:write"


class ProviderSerializer(StrictModel[Provider]):
    credentials = serializers.SerializerMethodField(help_text="The names of its credentials.")
    secrets = serializers.DictField(
        child=serializers.CharField(max_length=SECRET_LENGTH),
        write_only=True,
        required=False,
        help_text="Keys by the names of credentials, which are made where there are none yet. Each is kept encrypted and "
        "never shown. For an address on another host, every key must be written again. Needs the scope "
        f"`{CREDENTIALS_SCOPE}` as well.",
    )

    class Meta:
        model = Provider
        fields = ("id", "name", "adapter", "base_url", "allow_private_network", "enabled", "credentials", "secrets")

    def get_credentials(self, provider: Provider) -> list[str]:
        return sorted(credential.name for credential in provider.credentials.all())

    def validate_name(self, name: str) -> str:
        validate_provider_name(name)
        return name

    def validate_secrets(self, secrets: dict[str, str]) -> dict[str, str]:
        for secret in secrets.values():
            refuse_reference(secret)
            validate_credential_secret(secret)
        return secrets

    def create(self, validated_data: Mapping[str, Any]) -> Provider:
        return self.update(Provider(), validated_data)

    def update(self, instance: Provider, validated_data: Mapping[str, Any]) -> Provider:
        columns = dict(validated_data)
        secrets = columns.pop("secrets", {})
        present = services.place_of(instance) if instance.pk else None
        services.provider_save(instance, columns, secrets)
        if present not in {None, services.place_of(instance)}:
            _refuse_to_carry_over(instance, secrets)
        return instance


def _refuse_to_carry_over(provider: Provider, secrets: Mapping[str, str]) -> None:
    """Stored secrets must not go where somebody who may not read them has just pointed them.

    Raises:
        ValidationError: they would.
    """
    kept = provider.credentials.exclude(name__in=secrets).order_by("name").values_list("name", flat=True)
    if kept:
        raise ValidationError(
            {
                "secrets": f"The secret of {', '.join(kept)} was given for the present host and is not sent to another: "
                "write it again here, delete the credential, or change the address in the admin."
            }
        )


class ProviderFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    name = django_filters.CharFilter("name", label="The whole name.")
    adapter = django_filters.CharFilter("adapter", label="How it is talked to.")
    enabled = django_filters.BooleanFilter("enabled")


class ProviderViewSet(Readable[Provider]):
    """Vendors' APIs and servers of your own. They concern everybody: no token of a team has them."""

    serializer_class = ProviderSerializer
    read_scope, write_scope = "providers:read", "providers:write"
    filterset_class = ProviderFilters
    search_fields = ("name", "base_url")
    ordering_fields = ("name", "id")
    ordering = ("name",)

    def rows(self, reach: Reach) -> QuerySet[Provider]:
        return Provider.objects.prefetch_related("credentials")

    def unshown(self, row: Provider) -> str:
        return " ".join(sorted(credential.encrypted_secret for credential in row.credentials.all()))

    @extend_schema(request=ProviderSerializer, responses={201: ProviderSerializer})
    @writes
    def create(self, request: Request) -> Response:
        """Create a provider, with its credentials if it comes with `secrets`."""
        serializer = self._read(request)
        provider = serializer.save()
        return self.shown(self.get_queryset().get(pk=provider.pk), status.HTTP_201_CREATED)

    @extend_schema(request=ProviderSerializer(partial=True), responses=ProviderSerializer)
    @writes
    def partial_update(self, request: Request, /, **kwargs: Any) -> Response:
        """Change what is named in the body, and leave the rest. It applies to the next request."""
        self._read(request, self.locked()).save()
        return self.shown(self.get_object())

    @extend_schema(responses={204: None})
    @writes
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete it with its credentials, prices, limits and budgets, unless a deployment is at it."""
        self.locked().delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _read(self, request: Request, provider: Provider | None = None) -> serializers.BaseSerializer[Any]:
        serializer = self.get_serializer(provider, data=request.data, partial=provider is not None)
        serializer.is_valid(raise_exception=True)
        if "secrets" in serializer.validated_data and not self.principal.has_everywhere(CREDENTIALS_SCOPE):
            raise PermissionDenied(
                f"The {self.principal.description} lacks the scope {CREDENTIALS_SCOPE}; leave secrets out."
            )
        found: serializers.BaseSerializer[Any] = serializer
        return found
