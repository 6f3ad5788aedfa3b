"""Credentials in the admin. A secret can be entered and replaced, and never be read again."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordToggleWidget

from llmgateway.admin_base import GatewayAdmin, GatewayInline, badge
from providers.models import Credential
from providers.secret_values import is_reference
from providers.validators import validate_credential_secret


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    secret = forms.CharField(
        label="Secret",
        required=False,
        max_length=10_000,
        widget=UnfoldAdminPasswordToggleWidget({"autocomplete": "new-password"}),
        help_text="The provider's key, or where it is kept: env:NAME or file:/path. Empty: keep the present one.",
    )

    class Meta:
        model = Credential
        fields = ("provider", "name", "enabled")

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"].strip()
        if secret:
            validate_credential_secret(secret)
        elif not self.instance.pk:
            raise forms.ValidationError("Enter the provider's key, or env:NAME or file:/path.")
        return secret

    def save(self, commit: bool = True) -> Credential:
        if self.cleaned_data["secret"]:
            self.instance.set_secret(self.cleaned_data["secret"])
        saved: Credential = super().save(commit)
        return saved


def describe_secret(credential: Credential) -> tuple[str, str]:
    """What may be said of a secret, and a tone: a reference is shown with whether it leads somewhere, a key never."""
    try:
        stored = credential.stored_secret()
    except ImproperlyConfigured as error:
        return str(error), "bad"
    if not is_reference(stored):
        return "stored, encrypted", "good"
    try:
        credential.resolve_secret()
    except ImproperlyConfigured:
        return f"{stored} (not found)", "bad"
    return stored, "good"


class SecretDisplay:
    """The one thing that pages show of a secret."""

    @display(description="Present secret")  # type: ignore[untyped-decorator]
    def present_secret(self, credential: Credential) -> SafeString | str:
        return badge(*describe_secret(credential)) if credential.pk else "none yet"


class CredentialInline(SecretDisplay, GatewayInline):
    model = Credential
    form = CredentialForm
    fields = ("name", "secret", "present_secret", "enabled")
    readonly_fields = ("present_secret",)


@admin.register(Credential)
class CredentialAdmin(SecretDisplay, GatewayAdmin):
    form = CredentialForm
    empty_text = "A credential is the key that a provider gave you, kept encrypted."
    list_display = ("name", "provider", "present_secret", "enabled")
    list_select_related = ("provider",)
    list_filter = (("provider", AutocompleteSelectFilter), "enabled")
    search_fields = ("name", "provider__name")
    autocomplete_fields = ("provider",)
    fields = ("provider", "name", "present_secret", "secret", "enabled")
    readonly_fields = ("present_secret",)

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().changeform_view(request, *args, **kwargs)
