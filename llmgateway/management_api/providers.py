"""Providers: vendors' APIs, or servers of our own that speak one. Their credentials are named, written and never read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from llmgateway.management_api.credentials import SECRET_LENGTH, refuse_reference
from llmgateway.management_api.fields import Saved
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from providers import services
from providers.models import Provider
from providers.validators import validate_credential_secret, validate_provider_name

CREDENTIALS_SCOPE = "credentials:write"


class ProviderSerializer(Saved[Provider]):
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

    def write(self, row: Provider, columns: dict[str, Any]) -> None:
        secrets = columns.pop("secrets", {})
        present = services.place_of(row) if row.pk else None
        services.provider_save(row, columns, secrets)
        if present not in {None, services.place_of(row)}:
            _refuse_to_carry_over(row, secrets)


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


class ProviderFilters(NameFilters):
    adapter = django_filters.CharFilter("adapter", label="How it is talked to.")
    enabled = django_filters.BooleanFilter("enabled")


@worded(
    create="Create a provider, with its credentials if it comes with `secrets`.",
    change="Change what is named in the body, and leave the rest. It applies to the next request.",
    delete="Delete it with its credentials, prices, limits and budgets, unless a deployment is at it.",
)
class ProviderViewSet(Removable[Provider]):
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

    def read(self, request: Request, row: Provider | None = None) -> serializers.BaseSerializer[Any]:
        serializer = super().read(request, row)
        if "secrets" in serializer.validated_data and not self.principal.has_everywhere(CREDENTIALS_SCOPE):
            raise PermissionDenied(
                f"The {self.principal.description} lacks the scope {CREDENTIALS_SCOPE}; leave secrets out."
            )
        return serializer
