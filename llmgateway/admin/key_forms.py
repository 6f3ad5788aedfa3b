"""Forms of the key's pages: what may be typed, and what is said when it cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminPasswordToggleWidget,
    UnfoldAdminSelect2MultipleWidget,
)

from llmgateway import services
from llmgateway.admin_base import LinesField, chosen_rows
from llmgateway.key_secrets import MIN_CHOSEN_LENGTH
from llmgateway.models import ApiKey, NetworkList
from providers.models import ModelAlias

MAX_GRACE_HOURS = services.MAX_GRACE.days * 24


def unknown_models(names: Iterable[str]) -> list[str]:
    """Those of `names` that are no alias: left over from one that was renamed or deleted."""
    wanted = list(names)
    known = set(ModelAlias.objects.filter(name__in=wanted).values_list("name", flat=True))
    return [name for name in wanted if name not in known]


class AllowedModelsField(forms.MultipleChoiceField):
    """Any of the aliases there are, and names that are already chosen even if their alias is gone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=UnfoldAdminSelect2MultipleWidget(), required=False, **kwargs)

    def offer(self, chosen: list[str]) -> None:
        """Make the aliases, and `chosen` ones that are gone, the choices. Called once per form."""
        choices = [(name, name) for name in ModelAlias.objects.values_list("name", flat=True)]
        gone = unknown_models(chosen)
        self.choices = [*choices, *((name, f"{name} (no such alias)") for name in gone)]
        if gone:
            self.help_text = (
                f"{self.help_text} No alias is named {', '.join(gone)} any more: "
                "remove the name, or add an alias with it."
            )


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    allowed_models = AllowedModelsField(
        label="Allowed models", help_text="Model aliases this key may call. None chosen: all of them."
    )
    network_lists = forms.ModelMultipleChoiceField(
        NetworkList.objects.all(),
        required=False,
        label="Network lists",
        widget=UnfoldAdminSelect2MultipleWidget(),
        help_text="Shared lists of addresses this key may be used from.",
    )
    allowed_ips = LinesField(
        label="Allowed addresses",
        required=False,
        placeholder="192.0.2.7\n2001:db8::/32",
        help_text="Addresses and networks of this key alone, one a line. "
        "With neither these nor network lists, the key works from anywhere.",
    )

    tenant_teams = chosen_rows(
        ApiKey._meta.get_field("tenants"),  # noqa: SLF001  # Django's documented model API
        admin.site,
        label="Tenants",
        help_text="Further teams that requests may name as their `tenant`. That team's limits and budgets then count in "
        "place of its own team's; those of the key itself always do.",
    )

    class Meta:
        model = ApiKey
        fields = (
            "name", "team", "user_id", "allowed_models", "allowed_ips", "enabled", "starts_at", "expires_at", "priority",
            "may_bypass_health",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # On a page that may only be read the fields are not there.
        tenants = self.fields.get("tenant_teams")
        if tenants is not None and self.instance.pk:
            tenants.initial = list(self.instance.tenants.all())
        models, networks = self.fields.get("allowed_models"), self.fields.get("network_lists")
        if isinstance(models, AllowedModelsField):
            models.offer(list(self.instance.allowed_models))
        if networks is not None and self.instance.pk:
            networks.initial = list(self.instance.networks.all())


class NewKeyForm(KeyForm):
    secret = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminPasswordToggleWidget({"autocomplete": "new-password"}),
        help_text=f"Leave empty for a generated one, which is best. A chosen secret has at least {MIN_CHOSEN_LENGTH} "
        "characters; it is how a key from elsewhere goes on working here.",
    )

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"]
        if secret:
            try:
                services.validate_chosen_secret(secret)
            except ValidationError as error:
                raise ValidationError(error.message_dict["secret"]) from error
        return secret


class RotateForm(forms.Form):
    grace_hours = forms.IntegerField(
        label="Grace period (hours)",
        min_value=0,
        max_value=MAX_GRACE_HOURS,
        initial=int(services.DEFAULT_GRACE.total_seconds() // 3600),
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="How long the present secret goes on working. 0 ends it at once.",
    )
    seen = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, key: ApiKey, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = secret_state(key)
        self.fields["seen"].initial = self._state

    def clean_seen(self) -> str:
        # A page that is sent a second time must not rotate again: the secret it showed would be gone.
        seen: str = self.cleaned_data["seen"]
        if seen != self._state:
            raise ValidationError(
                "The key was rotated meanwhile. Open this page again if it shall be rotated once more."
            )
        return seen

    @property
    def grace(self) -> timedelta:
        return timedelta(hours=self.cleaned_data["grace_hours"])


def secret_state(key: ApiKey) -> str:
    """Changes with the key's secret and tells nothing about it."""
    return hashlib.sha256(f"state:{key.digest}".encode()).hexdigest()[:16]
