"""The key's own pages: the secret that is shown once, and the questions before a rotation, a stop or an end."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import action
from unfold.enums import ActionVariant

from llmgateway import selectors, services
from llmgateway.admin.key_forms import RotateForm
from llmgateway.admin_base import errors_of
from llmgateway.models import ApiKey
from providers.models import ModelAlias

CURL = """curl {base_url}/chat/completions \\
  -H "Authorization: Bearer {secret}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

SDK = """from openai import OpenAI

client = OpenAI(
    base_url="{base_url}",
    api_key="{secret}",
)
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""


class KeyPages:
    """Mixed into the key's admin: actions on one key, each asked for on a page of its own and done by POST."""

    admin_site: Any
    opts: Any
    get_object: Any
    has_change_permission: Any

    CONFIRMATIONS: ClassVar[dict[str, tuple[str, str, str, str]]] = {
        "disable": (
            "Disable {key}?",
            "Requests with this key will be answered 403 key_disabled within a second. You can enable it again.",
            "Disable",
            "danger",
        ),
        "enable": (
            "Enable {key}?",
            "Requests with this key will be served again within a second.",
            "Enable",
            "primary",
        ),
        "revoke": (
            "Revoke {key} for good?",
            "Requests with this key will be answered 401 within a second. This cannot be undone; its usage is kept.",
            "Revoke for good",
            "danger",
        ),
    }

    @action(description="Rotate secret", url_path="rotate", permissions=["change"], icon="autorenew")  # type: ignore[untyped-decorator]
    def rotate_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self._key(request, object_id)
        form = RotateForm(request.POST if request.method == "POST" else None, key=key)
        if request.method == "POST" and form.is_valid():
            try:
                secret = services.key_rotate(key, form.grace)
            except ValidationError as error:
                form.add_error(None, error.messages)
            else:
                return self.secret_page(request, key, secret, f"New secret of {key.name}", _grace_notice(key))
        if form.has_error("seen"):
            messages.warning(request, str(form.errors["seen"][0]))
            return redirect(_change_url(key))
        return self._question(
            request,
            key,
            form=form,
            question=f"Rotate the secret of {key.name}?",
            explanation="A new secret is made and shown once. The present one goes on working for the grace period.",
            confirm="Rotate and show the new secret",
        )

    @action(description="Disable", url_path="disable", permissions=["change"], icon="pause_circle")  # type: ignore[untyped-decorator]
    def disable_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._confirmed(request, object_id, "disable")

    @action(description="Enable", url_path="enable", permissions=["change"], icon="play_circle")  # type: ignore[untyped-decorator]
    def enable_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._confirmed(request, object_id, "enable")

    @action(  # type: ignore[untyped-decorator]
        description="Revoke", url_path="revoke", permissions=["change"], icon="block", variant=ActionVariant.DANGER
    )
    def revoke_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._confirmed(request, object_id, "revoke")

    def secret_page(
        self, request: HttpRequest, key: ApiKey, secret: str, headline: str, notice: str = ""
    ) -> HttpResponse:
        """The one answer that holds the secret. It is kept nowhere, so loading the page again cannot show it again."""
        usable = ModelAlias.objects.filter(enabled=True).values_list("name", flat=True)
        model = (key.allowed_models or list(usable[:1]) or [""])[0]
        words = {"base_url": request.build_absolute_uri("/v1"), "secret": secret, "model": model or "MODEL"}
        context = {
            **self.admin_site.each_context(request),
            "title": headline,
            "headline": headline,
            "opts": self.opts,
            "notice": notice,
            "secret": secret,
            "curl": CURL.format(**words),
            "sdk": SDK.format(**words),
            "model_known": bool(model),
            "key_url": _change_url(key),
            "list_url": reverse("admin:llmgateway_apikey_changelist"),
        }
        response = TemplateResponse(request, "gateway_admin/secret.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _key(self, request: HttpRequest, object_id: str) -> ApiKey:
        key: ApiKey | None = self.get_object(request, object_id)
        if key is None:
            raise Http404(f"There is no API key with id {object_id}.")
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        return key

    def _confirmed(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        key = self._key(request, object_id)
        if request.method == "POST":
            try:
                apply_to_key(name, key)
            except ValidationError as error:
                messages.error(request, errors_of(error))
            else:
                messages.success(request, f"{key.name} is {selectors.key_state(key)}.")
            return redirect(_change_url(key))
        question, explanation, confirm, variant = self.CONFIRMATIONS[name]
        return self._question(
            request, key, question=question.format(key=key.name), explanation=explanation, confirm=confirm,
            variant=variant,
        )  # fmt: skip

    def _question(
        self,
        request: HttpRequest,
        key: ApiKey,
        *,
        question: str,
        explanation: str,
        confirm: str,
        variant: str = "primary",
        form: forms.Form | None = None,
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": question,
            "question": question,
            "explanation": explanation,
            "opts": self.opts,
            "form": form,
            "confirm": confirm,
            "variant": variant,
            "back": _change_url(key),
        }
        return TemplateResponse(request, "gateway_admin/action.html", context)


def apply_to_key(name: str, key: ApiKey) -> None:
    """Do `disable`, `enable` or `revoke`. Raises ValidationError where the key's state forbids it."""
    {"disable": services.key_disable, "enable": services.key_enable, "revoke": services.key_revoke}[name](key)


def _change_url(key: ApiKey) -> str:
    return reverse("admin:llmgateway_apikey_change", args=[key.pk])


def _grace_notice(key: ApiKey) -> str:
    if key.previous_valid_until is None:
        return "The old secret no longer works."
    return f"The old secret works until {key.previous_valid_until:%Y-%m-%d %H:%M} UTC."
