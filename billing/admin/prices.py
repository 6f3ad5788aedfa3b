"""Prices in the admin: typed and shown in dollars per million tokens, added and never edited."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from billing.models import TOKEN_BUCKETS, Price
from billing.money import MoneyError, pico_from_usd, pico_per_token, plain, usd, usd_per_million
from billing.unit_prices import read_units, units_described, units_in_usd
from llmgateway.admin_base import AmountField, GatewayAdmin

MAX_PICO = 2**63 - 1
LABELS = {
    "input": "Input",
    "output": "Output",
    "cache_read": "Cached input, read",
    "cache_write_5m": "Cached input, written for 5 minutes",
    "cache_write_1h": "Cached input, written for 1 hour",
    "audio_input": "Audio input",
    "image_input": "Image input",
    "reasoning": "Reasoning",
    "audio_output": "Audio output",
}
ABSENT = {"cache_read", "cache_write_5m", "cache_write_1h", "audio_input", "image_input"}


def _bounded(read: Any) -> Any:
    def bounded(amount: Any) -> int:
        number: int = read(amount)
        if number > MAX_PICO:
            raise ValueError("This is more than can be recorded; check where the decimal point is.")
        return number

    return bounded


def _per_million(name: str) -> AmountField:
    absent = "the price of input" if name in ABSENT else "the price of output"
    return AmountField(
        label=LABELS[name],
        read=_bounded(pico_per_token),
        show=lambda pico: plain(usd_per_million(pico)),
        required=name == "input",
        help_text="" if name in {"input", "output"} else f"Empty: {absent}.",
    )


def _per_request() -> AmountField:
    return AmountField(
        label="Per request, in USD",
        read=_bounded(pico_from_usd),
        show=lambda pico: plain(usd(pico)),
        required=False,
        help_text="Charged for each request beside its tokens. Empty: nothing.",
    )


class UnitsField(forms.CharField):
    """Prices of what is not counted in tokens, one a line: `second 0.0001`."""

    def __init__(self) -> None:
        super().__init__(
            label="For what is no token, in USD",
            required=False,
            widget=UnfoldAdminTextareaWidget({"rows": 3, "spellcheck": "false"}),
            help_text=(
                "One a line, such as <code>second 0.0001</code>: second, minute or hour of sound, character, image (also "
                "by quality and size, such as image:high:1024x1024), search, page, page:annotated. Empty: none."
            ),
        )

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return "\n".join(f"{name} {amount}" for name, amount in units_in_usd(value).items())

    def to_python(self, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        lines = [line.split() for line in str(value or "").splitlines() if line.strip()]
        for line in lines:
            if len(line) != 2:
                raise ValidationError(f"{' '.join(line)} is no unit and its price; write one such as second 0.0001.")
        names = [name for name, _ in lines]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValidationError(f"{twice} has two prices; leave one.")
        try:
            return read_units({name: amount.removeprefix("$") for name, amount in lines})
        except MoneyError as error:
            raise ValidationError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs alone
    input = _per_million("input")
    output = _per_million("output")
    cache_read = _per_million("cache_read")
    cache_write_5m = _per_million("cache_write_5m")
    cache_write_1h = _per_million("cache_write_1h")
    audio_input = _per_million("audio_input")
    image_input = _per_million("image_input")
    reasoning = _per_million("reasoning")
    audio_output = _per_million("audio_output")
    request = _per_request()
    units = UnitsField()

    class Meta:
        model = Price
        fields = ("provider", "model", "effective_from", *TOKEN_BUCKETS, "request", "units", "source")

    def clean_output(self) -> int:
        return self.cleaned_data["output"] or 0

    def clean_request(self) -> int:
        amount: int = self.cleaned_data["request"] or 0
        if amount < 0:
            raise ValidationError("A price cannot be negative.")
        return amount


def _shown(name: str) -> Any:
    @display(description=LABELS[name], empty_value="–")  # type: ignore[untyped-decorator]
    def amount(_admin: Any, price: Price) -> str | None:
        pico: int | None = getattr(price, name)
        return None if pico is None else f"${plain(usd_per_million(pico))}"

    return amount


@admin.register(Price)
class PriceAdmin(GatewayAdmin):
    form = PriceForm
    empty_text = (
        "Without a price a model's requests are marked as not priced. They cost the default price of the settings, and "
        "nothing where there is none."
    )
    list_display = (
        "model",
        "provider",
        "state",
        "effective_from",
        "shown_input",
        "shown_output",
        "shown_cache_read",
        "source",
    )
    list_select_related = ("provider",)
    list_filter = (("provider", AutocompleteSelectFilter),)
    search_fields = ("model", "provider__name")
    search_help_text = "Part of a model's or provider's name."
    autocomplete_fields = ("provider",)
    actions_row = ("new_version",)
    actions_detail = ("new_version",)
    add_fieldsets = (
        (None, {"fields": ("provider", "model", "effective_from", "source")}),
        ("USD per million tokens", {"fields": (("input", "output"), "cache_read", ("cache_write_5m", "cache_write_1h"),
                                               ("audio_input", "image_input"), ("reasoning", "audio_output"))}),
        ("Other", {"fields": ("request", "units")}),
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": ("provider", "model", "state", "effective_from", "source", "created_at")}),
        ("USD per million tokens", {"fields": tuple(f"shown_{name}" for name in TOKEN_BUCKETS)}),
        ("Other", {"fields": ("shown_request", "shown_units")}),
    )
    readonly_fields = (
        "state",
        *(f"shown_{name}" for name in TOKEN_BUCKETS),
        "shown_request",
        "shown_units",
        "created_at",
    )
    shown_input, shown_output, shown_cache_read = _shown("input"), _shown("output"), _shown("cache_read")
    shown_cache_write_5m, shown_cache_write_1h = _shown("cache_write_5m"), _shown("cache_write_1h")
    shown_audio_input, shown_image_input = _shown("audio_input"), _shown("image_input")
    shown_reasoning, shown_audio_output = _shown("reasoning"), _shown("audio_output")

    @display(description="Per request")  # type: ignore[untyped-decorator]
    def shown_request(self, price: Price) -> str:
        return f"${plain(usd(price.request))}"

    @display(description="For what is no token, in USD", empty_value="–")  # type: ignore[untyped-decorator]
    def shown_units(self, price: Price) -> str | None:
        return units_described(price.units) or None

    @display(description="State")  # type: ignore[untyped-decorator]
    def state(self, price: Price) -> str:
        now = timezone.now()
        if price.effective_from > now:
            return "planned"
        later = Price.objects.filter(
            provider=price.provider_id, model=price.model,
            effective_from__gt=price.effective_from, effective_from__lte=now,
        )  # fmt: skip
        return "superseded" if later.exists() else "in force"

    def get_readonly_fields(self, request: HttpRequest, obj: Price | None = None) -> Any:
        return self.readonly_fields if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Ledger rows point at the price they were charged at; a correction is a new row with its own date.
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed: bool = super().has_view_permission(request, obj) or request.user.has_perm("billing.change_price")
        return allowed

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        planned = not isinstance(obj, Price) or obj.effective_from > timezone.now()
        return planned and super().has_delete_permission(request, obj)

    def get_actions(self, request: HttpRequest) -> Any:
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        initial = {
            "effective_from": timezone.now().replace(microsecond=0),
            **super().get_changeform_initial_data(request),
        }
        former = Price.objects.filter(pk=request.GET["from"]).first() if request.GET.get("from", "").isdigit() else None
        if former:
            names = ("provider_id", "model", *TOKEN_BUCKETS, "request", "units", "source")
            initial.update({name.removesuffix("_id"): getattr(former, name) for name in names})
        return initial

    def has_new_version_permission(self, request: HttpRequest, _object_id: Any = None) -> bool:
        # Not `billing.add_price` itself: the theme would look that up in the database while checking, before `migrate`.
        return bool(self.has_add_permission(request))

    @action(
        description="New version of this price", url_path="new-version", permissions=["new_version"], icon="add_circle"
    )  # type: ignore[untyped-decorator]
    def new_version(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if self.get_object(request, object_id) is None:
            raise Http404(f"There is no price with id {object_id}.")
        return redirect(f"{reverse('admin:billing_price_add')}?{urlencode({'from': object_id})}")
