"""The page that shows mirrored requests beside their copies, in sums and one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from billing.admin.ledger_words import PERIOD_LABELS, PERIODS, STATUS_TONES, milliseconds
from billing.mirror_pairs import MOST_PAIRS, Comparison, Figures, Pair, Side, comparisons, mirror_pairs
from billing.money import format_usd
from llmgateway.admin_base import ReadOnlyAdmin, badge
from providers.models import ModelAlias

URL_NAME = "billing_usagerecord_mirrors"
PAIRS_PER_PAGE = 25
DEFAULT_PERIOD = "day"
_ENDS = {
    "": "All",
    "differ": "One of the two failed",
    "copy_failed": "The copy failed",
    "original_failed": "The request failed",
}


class MirrorForm(forms.Form):
    """Which pairs are shown. What is not offered is as good as not chosen, so that a mangled link still opens."""

    period = forms.ChoiceField(choices=PERIOD_LABELS, required=False, widget=UnfoldAdminSelectWidget)
    alias = forms.ChoiceField(label="Asked for", required=False, widget=UnfoldAdminSelectWidget)
    mirror = forms.ChoiceField(label="Mirrored to", required=False, widget=UnfoldAdminSelectWidget)
    ended = forms.ChoiceField(choices=list(_ENDS.items()), required=False, widget=UnfoldAdminSelectWidget)

    def offer(self, pairs: Sequence[Pair]) -> None:
        for place, name in enumerate(("alias", "mirror")):
            found = {pair.names[place] for pair in pairs} | {self.data.get(name, "")}
            offered: Any = self.fields[name]
            offered.choices = [("", "All"), *((each, each) for each in sorted(filter(None, found)))]

    def of_aliases(self, pairs: Sequence[Pair]) -> list[Pair]:
        """What is summed: all of the two aliases, however they ended."""
        alias, mirror = self._chosen("alias"), self._chosen("mirror")
        return [pair for pair in pairs if alias in {"", pair.names[0]} and mirror in {"", pair.names[1]}]

    def listed(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Of these, those that ended as was chosen."""
        ended = self._chosen("ended")
        return [pair for pair in pairs if not ended or _ENDED[ended](pair)]

    def _chosen(self, name: str) -> str:
        self.is_valid()
        chosen: str = self.cleaned_data.get(name, "")
        return chosen


_ENDED: dict[str, Callable[[Pair], bool]] = {
    "differ": lambda pair: pair.ends_differ,
    "copy_failed": lambda pair: pair.copy.is_failed,
    "original_failed": lambda pair: pair.original is not None and pair.original.is_failed,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of both sides, as text."""

    label: str
    original: str
    copy: str
    difference: str = ""


class MirrorPage(ReadOnlyAdmin):
    """For the admin of the ledger: the page beside its list."""

    def get_urls(self) -> list[Any]:
        # Before Django's own, which would take the word for the id of a row.
        return [path("mirrors/", self.admin_site.admin_view(self.mirror_view), name=URL_NAME), *super().get_urls()]

    def mirror_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        period = request.GET.get("period", "")
        form = MirrorForm({"period": DEFAULT_PERIOD, **request.GET.dict()})
        pairs, has_older = mirror_pairs(timezone.now() - PERIODS.get(period, PERIODS[DEFAULT_PERIOD]))
        form.offer(pairs)
        kept = form.of_aliases(pairs)
        page = Paginator(form.listed(kept), PAIRS_PER_PAGE).get_page(request.GET.get("p"))
        query = request.GET.copy()
        query.pop("p", None)
        context = {
            **self.admin_site.each_context(request),
            "title": "Mirroring",
            "opts": self.opts,
            "form": form,
            "any": bool(pairs),
            "most": MOST_PAIRS if has_older else 0,
            "comparisons": [(each, _lines(each)) for each in comparisons(kept)],
            "page": page,
            "pairs": [_shown(pair) for pair in page.object_list],
            "query": query.urlencode(),
            "mirrored": ModelAlias.objects.filter(mirror_alias__isnull=False).select_related("mirror_alias")[:20],
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "gateway_admin/mirrors.html", context)


def _lines(found: Comparison) -> list[Line]:
    one, other = found.original, found.copy
    return [
        Line("Failed", _share(one), _share(other)),
        *_times("First token", one.ttft_us, other.ttft_us),
        *_times("Duration", one.duration_us, other.duration_us),
        _numbers("Input tokens, mean", one.input_tokens, other.input_tokens),
        _numbers("Output tokens, mean", one.output_tokens, other.output_tokens),
        Line("Cost of one", _cost_of_one(one), _cost_of_one(other), _change(one.cost_of_one, other.cost_of_one)),
        Line("Cost", _cost(one), _cost(other), _change(one.cost_pico_usd, other.cost_pico_usd)),
    ]


def _share(figures: Figures) -> str:
    return f"{figures.failed:,} ({100 * figures.failed / figures.requests:.1f} %)"


def _times(label: str, one: tuple[int | None, ...], other: tuple[int | None, ...]) -> list[Line]:
    return [
        Line(f"{label}, {which}", milliseconds(first), milliseconds(second), _change(first, second))
        for which, first, second in zip(("median", "95 %"), one, other, strict=True)
    ]


def _numbers(label: str, one: float, other: float) -> Line:
    return Line(label, f"{one:,.0f}", f"{other:,.0f}", _change(one, other))


def _cost_of_one(figures: Figures) -> str:
    return "not priced" if figures.unpriced == figures.requests else format_usd(figures.cost_of_one)


def _cost(figures: Figures) -> str:
    if figures.unpriced == figures.requests:
        return "not priced"
    left_out = f" ({figures.unpriced:,} not priced)" if figures.unpriced else ""
    return f"{format_usd(figures.cost_pico_usd)}{left_out}"


def _change(one: float | None, other: float | None) -> str:
    """By how much the copy's figure is above the request's."""
    if not one or other is None:
        return ""
    percent = 100 * (other - one) / one
    return "the same" if round(percent) == 0 else f"{percent:+,.0f} %"


@dataclass(frozen=True, slots=True)
class ShownSide:
    """One side of a pair, as text."""

    id: str
    which: str
    alias: str
    model: str
    status: SafeString
    error_type: str
    ttft: str
    duration: str
    tokens: str
    cost: str


@dataclass(frozen=True, slots=True)
class ShownPair:
    pair: Pair
    sides: tuple[ShownSide, ...]
    """The request, if it is there, and the copy."""


def _shown(pair: Pair) -> ShownPair:
    sides = [_shown_side(pair.copy, "Copy")]
    if pair.original is not None:
        sides.insert(0, _shown_side(pair.original, "Request"))
    return ShownPair(pair, tuple(sides))


def _shown_side(side: Side, which: str) -> ShownSide:
    estimated = " (estimated)" if side.is_estimated else ""
    return ShownSide(
        id=side.id,
        which=which,
        alias=side.alias,
        model=f"{side.model} at {side.provider}" if side.model else "no target",
        status=badge(side.status, STATUS_TONES.get(side.status, "neutral")),
        error_type=side.error_type,
        ttft=milliseconds(side.ttft_us),
        duration=milliseconds(side.duration_us),
        tokens=f"{side.input_tokens:,} / {side.output_tokens:,}{estimated}",
        cost=format_usd(side.cost_pico_usd) if side.priced else "not priced",
    )
