"""Management tokens in the admin: made with a secret that is shown once, and revoked, never edited."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from llmgateway.admin_base import GatewayAdmin, badge
from llmgateway.management_api.models import ManagementToken
from llmgateway.management_api.principals import principal_of_user
from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_assign_secret, token_revoke

STATE_TONES = {"active": "good", "expired": "warning", "revoked": "bad"}

CURL = 'curl {url} -H "Authorization: Bearer {secret}"'


class NewTokenForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    """Nobody gives a token what they may not do themselves."""

    user: Any = None
    scopes = forms.MultipleChoiceField(
        choices=[(scope.name, f"{scope.name}: {scope.summary}") for scope in SCOPES.values()],
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        help_text="What it may do. Writing includes reading the same.",
    )

    class Meta:
        model = ManagementToken
        fields = ("name", "team", "scopes", "expires_at")

    def clean_scopes(self) -> list[str]:
        scopes: list[str] = self.cleaned_data["scopes"]
        own = principal_of_user(self.user)
        if missing := [scope for scope in scopes if not own.has_everywhere(scope)]:
            raise ValidationError(f"You cannot give what you may not do yourself: {', '.join(missing)}.")
        return scopes


@admin.register(ManagementToken)
class ManagementTokenAdmin(GatewayAdmin):
    empty_text = "A token lets a program use the management API. Its secret is shown once."
    list_display = ("name", "masked_token", "state", "team", "shown_scopes", "last_used", "expires_at", "created_by")
    list_select_related = ("team", "use", "created_by")
    list_filter = (("team", AutocompleteSelectFilter),)
    search_fields = ("name", "=public_id")
    autocomplete_fields = ("team",)
    actions_row = ("revoke_token",)
    actions_detail = ("revoke_token",)
    add_fieldsets = ((None, {"fields": ("name", "team", "scopes", "expires_at")}),)
    fieldsets = (
        (None, {"fields": ("name", "masked_token", "state", "team", "shown_scopes", "expires_at")}),
        ("Record", {"fields": ("last_used", "last_address", "created_at", "created_by", "revoked_at")}),
    )
    readonly_fields = (
        "masked_token", "state", "shown_scopes", "last_used", "last_address", "created_at", "created_by", "revoked_at",
    )  # fmt: skip

    @display(description="Token")  # type: ignore[untyped-decorator]
    def masked_token(self, token: ManagementToken) -> str:
        return token.masked

    @display(description="State")  # type: ignore[untyped-decorator]
    def state(self, token: ManagementToken) -> SafeString:
        return badge(token.state, STATE_TONES[token.state])

    @display(description="Scopes")  # type: ignore[untyped-decorator]
    def shown_scopes(self, token: ManagementToken) -> str:
        return ", ".join(token.scopes)

    @display(description="Last used", empty_value="never")  # type: ignore[untyped-decorator]
    def last_used(self, token: Any) -> Any:
        use = getattr(token, "use", None)
        return use and use.at

    @display(description="From", empty_value="–")  # type: ignore[untyped-decorator]
    def last_address(self, token: Any) -> str | None:
        use = getattr(token, "use", None)
        return use and use.remote_address

    def get_form(
        self, request: HttpRequest, obj: ManagementToken | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj:
            return super().get_form(request, obj, change, **kwargs)
        form = super().get_form(request, obj, change, **{**kwargs, "form": NewTokenForm})
        return type(form.__name__, (form,), {"user": request.user})

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # What a token may do is part of what was decided about whoever holds it: another token, another decision.
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        permitted: bool = super().has_view_permission(request, obj)
        return permitted or request.user.has_perm("management_api.change_managementtoken")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # As with keys: what still works is revoked first, and its name stays in the record.
        return super().has_delete_permission(request, obj) and (obj is None or bool(getattr(obj, "revoked_at", None)))

    def get_actions(self, request: HttpRequest) -> Any:
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    def save_model(self, request: HttpRequest, obj: ManagementToken, form: Any, change: bool) -> None:
        request.fresh_secret = token_assign_secret(obj)  # type: ignore[attr-defined]  # for `response_add` alone
        obj.created_by = request.user  # type: ignore[assignment]  # who is logged in, as the permission says
        super().save_model(request, obj, form, change)

    def response_add(
        self, request: HttpRequest, obj: ManagementToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The one answer that holds the secret."""
        secret: str = request.fresh_secret  # type: ignore[attr-defined]  # set by `save_model`
        url = request.build_absolute_uri(reverse("management-api-schema"))
        context = {
            **self.admin_site.each_context(request),
            "title": f"{obj.name} is ready",
            "headline": f"{obj.name} is ready",
            "opts": self.opts,
            "secret": secret,
            "curl": CURL.format(url=url, secret=secret),
            "token_url": _change_url(obj),
            "list_url": reverse("admin:management_api_managementtoken_changelist"),
        }
        response = TemplateResponse(request, "gateway_admin/token_secret.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def has_revoke_permission(self, request: HttpRequest, _object_id: Any = None) -> bool:
        return request.user.has_perm("management_api.change_managementtoken")

    @action(  # type: ignore[untyped-decorator]
        description="Revoke", url_path="revoke", permissions=["revoke"], icon="block", variant=ActionVariant.DANGER
    )
    def revoke_token(self, request: HttpRequest, object_id: str) -> HttpResponse:
        token: ManagementToken | None = self.get_object(request, object_id)
        if token is None:
            raise Http404(f"There is no management token with id {object_id}.")
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            token_revoke(token)
            messages.success(request, f"{token.name} is revoked.")
            return redirect(_change_url(token))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Revoke {token.name} for good?",
            "question": f"Revoke {token.name} for good?",
            "explanation": "Requests with this token will be answered 401 from now on. This cannot be undone.",
            "opts": self.opts,
            "confirm": "Revoke for good",
            "variant": "danger",
            "back": _change_url(token),
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)


def _change_url(token: ManagementToken) -> str:
    return reverse("admin:management_api_managementtoken_change", args=[token.pk])
