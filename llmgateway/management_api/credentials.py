"""Credentials: the keys that providers gave us. A secret is written and never read, not even in part."""

from __future__ import annotations

from typing import Any

import django_filters
from django.core.exceptions import ImproperlyConfigured
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from llmgateway.management_api.fields import NameField, Saved
from llmgateway.management_api.filters import NameFilters
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from providers import services
from providers.models import Credential, Provider
from providers.secret_values import is_reference
from providers.validators import validate_credential_secret

SECRET_LENGTH = 10_000
STATES = ("stored", "reference", "not_found", "unreadable")


class CredentialSerializer(Saved[Credential]):
    provider = NameField(queryset=Provider.objects.all(), help_text="Its name. A credential stays with its provider.")
    secret = serializers.CharField(
        max_length=SECRET_LENGTH,
        write_only=True,
        help_text="The key that the provider gave you. It is kept encrypted and never shown.",
    )
    secret_state = serializers.SerializerMethodField(
        help_text="`stored`: encrypted here; `reference`: kept in a variable or file, as the admin says; `not_found`: the "
        "reference leads nowhere; `unreadable`: it was encrypted with a field key that is gone, so write it again."
    )

    class Meta:
        model = Credential
        fields = ("id", "provider", "name", "enabled", "secret_state", "secret")
        validators: tuple[Any, ...] = ()

    @extend_schema_field(serializers.ChoiceField(choices=STATES))
    def get_secret_state(self, credential: Credential) -> str:
        return secret_state(credential)

    def validate_provider(self, provider: Provider) -> Provider:
        if isinstance(self.instance, Credential) and self.instance.provider != provider:
            raise serializers.ValidationError(
                f"A credential stays with its provider; create one of {provider} and delete this one."
            )
        return provider

    def validate_secret(self, secret: str) -> str:
        refuse_reference(secret)
        validate_credential_secret(secret)
        return secret

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        row = self.instance if isinstance(self.instance, Credential) else Credential()
        provider, name = attrs.get("provider", getattr(row, "provider", None)), attrs.get("name", row.name)
        others = Credential.objects.filter(provider=provider, name=name).exclude(pk=row.pk)
        if others.exists():
            raise serializers.ValidationError(
                {"name": f"{provider} has a credential {name} already; change that one, or choose another name."}
            )
        return attrs

    def write(self, row: Credential, columns: dict[str, Any]) -> None:
        secret = columns.pop("secret", None)
        services.credential_save(row, columns, secret)


def refuse_reference(secret: str) -> None:
    """Else whoever may write credentials could have any variable of the server sent to a provider of theirs.

    Raises:
        ValidationError: it is a reference.
    """
    if is_reference(secret):
        raise serializers.ValidationError(
            "Write the key itself. References to variables and files stand in the admin or the configuration file."
        )


def secret_state(credential: Credential) -> str:
    """One of `STATES`: what may be said of a secret."""
    try:
        stored = credential.stored_secret()
    except ImproperlyConfigured:
        return "unreadable"
    if not is_reference(stored):
        return "stored"
    try:
        credential.resolve_secret()
    except ImproperlyConfigured:
        return "not_found"
    return "reference"


class CredentialFilters(NameFilters):
    provider = django_filters.CharFilter("provider__name", label="The name of the provider.")
    enabled = django_filters.BooleanFilter("enabled")


@worded(
    create="Store a key of a provider. Deployments use it once they name it.",
    change="Change what is named, and leave the rest. With another `secret`, the next request is sent with it.",
    delete="Delete it, unless a deployment uses it.",
)
class CredentialViewSet(Removable[Credential]):
    """The keys that providers gave you. They concern everybody: no token of a team has them."""

    serializer_class = CredentialSerializer
    read_scope, write_scope = "credentials:read", "credentials:write"
    filterset_class = CredentialFilters
    search_fields = ("name", "provider__name")
    ordering_fields = ("name", "id")
    ordering = ("name",)
    volatile = ("secret_state",)

    def rows(self, reach: Reach) -> QuerySet[Credential]:
        return Credential.objects.select_related("provider")

    def unshown(self, row: Credential) -> str:
        return row.encrypted_secret
