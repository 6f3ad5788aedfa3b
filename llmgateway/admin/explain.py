"""The page on which somebody finds out what would become of a request."""

from __future__ import annotations

from typing import Any

import msgspec
from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from llmgateway.explain.here import NotServingError, explain_here
from llmgateway.explain.question import PATHS
from llmgateway.management_api.explain import asked
from llmgateway.management_api.scopes import SCOPES
from llmgateway.models import ApiKey
from providers.models import ModelAlias

_TEXT = UnfoldAdminTextInputWidget
MOST_OFFERED = 200
"""Names that are offered while one types."""


class ExplainForm(forms.Form):
    """Say a key and a model, or a request of the ledger."""

    key = forms.CharField(
        label="API key",
        required=False,
        max_length=500,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off", "placeholder": "sk-gw-…"}),
        help_text="Its secret. It is looked up and forgotten. Or name the key below.",
    )
    key_name = forms.CharField(
        label="or the name of a key", required=False, max_length=200, widget=_TEXT(attrs={"list": "key-names"})
    )
    model = forms.CharField(required=False, max_length=200, widget=_TEXT(attrs={"list": "model-names"}))
    client_ip = forms.GenericIPAddressField(label="From the address", required=False, widget=_TEXT())
    path = forms.ChoiceField(
        label="Protocol", choices=[(path, path) for path in PATHS], required=False, widget=UnfoldAdminSelectWidget
    )
    end_user = forms.CharField(label="End user", required=False, max_length=200, widget=_TEXT())
    body = forms.CharField(
        label="Body (JSON)",
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}),
        help_text="Empty: the plainest one.",
    )
    request_id = forms.CharField(
        label="or a request of the ledger",
        required=False,
        max_length=64,
        widget=_TEXT(attrs={"placeholder": "req_…"}),
        help_text="The same request once more, by the rules of now. What is filled in above changes it.",
    )

    def clean_body(self) -> Any:
        text: str = self.cleaned_data["body"]
        if not text.strip():
            return None
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise forms.ValidationError(f"This is no JSON: {error}.") from None

    def clean_key_name(self) -> str:
        """The id of the key."""
        name: str = self.cleaned_data["key_name"].strip()
        if not name:
            return ""
        found = ApiKey.objects.filter(name=name).values_list("pk", flat=True).first()
        if found is None:
            raise forms.ValidationError("No key has this name.")
        return str(found)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if not given.get("request_id") and not self.errors:
            if not given.get("model"):
                self.add_error("model", "Name a model, or a request of the ledger.")
            if not (given.get("key") or given.get("key_name")):
                self.add_error("key", "Paste a key, name one, or name a request of the ledger.")
        if given.get("key") and given.get("key_name"):
            self.add_error("key", "Either a secret or a name.")
        return given

    def given(self) -> dict[str, Any]:
        """As the management API takes it."""
        fields = {**self.cleaned_data, "key_id": self.cleaned_data["key_name"]}
        return {name: value for name, value in fields.items() if name != "key_name" and value not in ("", None)}


@sensitive_post_parameters("key", "body")
def explain_page(request: HttpRequest) -> HttpResponse:
    """For those who may see keys, limits, budgets and models of everybody."""
    if not request.user.has_perms(SCOPES["explain:read"].permissions):
        raise PermissionDenied
    initial = {"request_id": request.GET.get("request_id", "")}
    form = ExplainForm(request.POST if request.method == "POST" else None, initial=initial)
    context: dict[str, Any] = {**admin.site.each_context(request), "title": "Explain", "form": form}
    if request.method == "POST" and form.is_valid():
        question = asked(form.given())
        if question is None:
            form.add_error("request_id", "The ledger has no request of this id, or not yet.")
        else:
            try:
                context["found"] = explain_here(question)
            except NotServingError as error:
                form.add_error(None, str(error))
    context["models"] = (
        ModelAlias.objects.filter(enabled=True).order_by("name").values_list("name", flat=True)[:MOST_OFFERED]
    )
    context["keys"] = ApiKey.objects.order_by("name").values_list("name", flat=True)[:MOST_OFFERED]
    response = TemplateResponse(request, "gateway_admin/explain.html", context)
    response.headers["Cache-Control"] = "no-store"
    return response
