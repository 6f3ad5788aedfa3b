"""The ledger in the admin: read only, and bounded so that a page is quick however many rows there are."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import TextFilter
from unfold.decorators import display

from billing.admin.ledger_words import PERIOD_LABELS, PERIODS, STATUS_TONES, milliseconds
from billing.admin.mirrors import MirrorPage
from billing.models import TOKEN_BUCKETS, UsageRecord, UsageRollup
from billing.money import format_usd, plain, usd
from billing.reviews import mark_reviewed
from llmgateway.admin_base import CappedPaginator, badge
from llmgateway.models import ApiKey, Team

SCANNED_ROWS = 20_000
"""How many of the newest rows are looked at for what no index finds: a status, an end user, a client's request id."""


class LedgerPaginator(CappedPaginator):
    """Rows of one team or key lie far apart in the table: to count many of them takes long."""

    counted_rows = 2_000


class PeriodFilter(admin.SimpleListFilter):
    title = "period"
    parameter_name = "period"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return PERIOD_LABELS

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        period = PERIODS.get(self.value() or "")
        return queryset.filter(started_at__gte=timezone.now() - period) if period else queryset


class KeyFilter(TextFilter):  # type: ignore[misc]  # the theme has no types
    title = "key (its name)"
    parameter_name = "key"

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(_of_keys(self.value())) if self.value() else queryset


class TeamFilter(TextFilter):  # type: ignore[misc]  # the theme has no types
    title = "team (its name)"
    parameter_name = "team"

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        if not self.value():
            return queryset
        return queryset.filter(team_id__in=list(Team.objects.filter(name=self.value()).values_list("pk", flat=True)))


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in UsageRecord.Status.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return newest(queryset).filter(status=self.value()) if self.value() else queryset


class ReviewFilter(admin.SimpleListFilter):
    title = "review"
    parameter_name = "review"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("needed", "Needs review")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
        return queryset.filter(needs_review=True) if self.value() == "needed" else queryset


def newest(rows: QuerySet[UsageRecord]) -> QuerySet[UsageRecord]:
    """Those of `rows` that began no earlier than the 20,000th newest. An index finds where that is."""
    times = rows.order_by("-started_at").values_list("started_at", flat=True)
    edge = next(iter(times[SCANNED_ROWS : SCANNED_ROWS + 1]), None)
    return rows.filter(started_at__gte=edge) if edge else rows


def _of_keys(name: str) -> Q:
    ids = _key_ids(name)
    return Q(key_id=ids[0]) if len(ids) == 1 else Q(key_id__in=ids)


def _key_ids(name: str) -> list[str]:
    ids = ApiKey.objects.filter(Q(name=name) | Q(public_id=name)).values_list("pk", flat=True)
    # A deleted key's id, and `file:` keys, are in no table.
    meant = [*(str(pk) for pk in ids), name, f"file:{name}"]
    # Of one id alone PostgreSQL reads rows in the order of an index; of several it reads all rows if few are a key's.
    return [key_id for key_id in meant if UsageRollup.objects.filter(key_id=key_id).exists()]


@admin.register(UsageRecord)
class UsageRecordAdmin(MirrorPage):
    empty_text = "Each request that was admitted stands here a moment after it ended."
    list_display = (
        "started_at",
        "outcome",
        "key_name",
        "team_name",
        "alias",
        "deployment",
        "tokens",
        "cost",
        "duration",
    )
    list_display_links = ("started_at",)
    list_filter = (PeriodFilter, KeyFilter, TeamFilter, StatusFilter, ReviewFilter)
    search_fields = ("id",)
    search_help_text = (
        "A whole request id or key name; or, among the newest 20,000 requests, an end user or a client's request id. "
        "The status filter looks at the newest 20,000 as well."
    )
    paginator = LedgerPaginator
    ordering = ("-started_at", "-id")
    # Sorting by anything else would read the whole table.
    sortable_by = ()
    actions = ("mark_as_reviewed",)
    fieldsets = (
        (None, {"fields": ("id", "started_at", "outcome", "http_status", "error_type", "operation", "path", "stream")}),
        ("Who", {"fields": ("whose_key", "own_account", "team_name", "end_user", "client_request_id", "client_ip")}),
        (
            "What",
            {"fields": ("alias", "via", "provider", "deployment", "model", "response_model", "cache", "mirror_of")},
        ),
        ("Tokens", {"fields": (*TOKEN_BUCKETS, "other_units", "usage_source")}),
        (
            "Money",
            {"fields": ("cost", "saved", "reported_cost", "held", "over_hold", "price_id", "priced", "default_price")},
        ),
        ("Review", {"fields": ("needs_review", "reserved", "reviewed_at", "reviewed_by")}),
        ("Time", {"fields": ("duration", "first_token", "overhead")}),
        ("As recorded", {"fields": ("attempt_list", "raw_usage")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [str(name) for _, section in self.fieldsets for name in section["fields"]]

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRecord]:
        found: QuerySet[UsageRecord] = super().get_queryset(request).order_by(*self.ordering)
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageRecord], search_term: str
    ) -> tuple[QuerySet[UsageRecord], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if queryset.filter(pk=term).exists():
            return queryset.filter(pk=term), False
        keys = queryset.filter(_of_keys(term))
        if keys.exists():
            return keys, False
        return newest(queryset).filter(Q(end_user=term) | Q(client_request_id=term)), False

    def has_review_permission(self, request: HttpRequest) -> bool:
        """Rows are written by the drain alone, so nobody may change them; to review one takes the same right."""
        return bool(request.user.has_perm("billing.change_usagerecord"))

    @admin.action(description="Mark as reviewed", permissions=["review"])
    def mark_as_reviewed(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> None:
        # Filters and the order may be ones that no update can carry.
        chosen = UsageRecord.objects.filter(pk__in=list(queryset.values_list("pk", flat=True)))
        reviewed = mark_reviewed(chosen, by=request.user.get_username())
        self.message_user(request, f"{reviewed} reviewed. From now on strict budgets are charged what they cost.")

    @display(description="Status")  # type: ignore[untyped-decorator]
    def outcome(self, record: UsageRecord) -> SafeString:
        return badge(record.get_status_display().lower(), STATUS_TONES.get(record.status, "neutral"))

    @display(description="Key name")  # type: ignore[untyped-decorator]
    def whose_key(self, record: UsageRecord) -> SafeString:
        return _breaking(record.key_name)

    @display(description="Own key", empty_value="–")  # type: ignore[untyped-decorator]
    def own_account(self, record: UsageRecord) -> SafeString | None:
        return _breaking(record.own_key) if record.own_key else None

    @display(description="Tokens in / out")  # type: ignore[untyped-decorator]
    def tokens(self, record: UsageRecord) -> str:
        read = sum(getattr(record, name) for name in TOKEN_BUCKETS[:6])
        written = sum(getattr(record, name) for name in TOKEN_BUCKETS[6:])
        estimated = " (estimated)" if record.usage_source == UsageRecord.UsageSource.ESTIMATED else ""
        return f"{read:,} / {written:,}{estimated}"

    @display(description="Cost")  # type: ignore[untyped-decorator]
    def cost(self, record: UsageRecord) -> str:
        if record.default_price:
            return f"{format_usd(record.cost_pico_usd)} (default price)"
        return format_usd(record.cost_pico_usd) if record.priced else "not priced"

    @display(description="Saved by a kept answer")  # type: ignore[untyped-decorator]
    def saved(self, record: UsageRecord) -> str:
        return format_usd(record.saved_pico_usd)

    @display(description="Beside tokens", empty_value="–")  # type: ignore[untyped-decorator]
    def other_units(self, record: UsageRecord) -> str | None:
        return ", ".join(f"{amount:,} {name}" for name, amount in record.units.items()) if record.units else None

    @display(description="Cost as the provider reports it", empty_value="–")  # type: ignore[untyped-decorator]
    def reported_cost(self, record: UsageRecord) -> str | None:
        pico = record.reported_cost_pico_usd
        return None if pico is None else f"${plain(usd(pico))}"

    @display(description="Held")  # type: ignore[untyped-decorator]
    def held(self, record: UsageRecord) -> str:
        return format_usd(record.held_pico_usd)

    @display(description="Reserved until reviewed")  # type: ignore[untyped-decorator]
    def reserved(self, record: UsageRecord) -> str:
        return format_usd(record.reserved_pico_usd)

    @display(description="Duration")  # type: ignore[untyped-decorator]
    def duration(self, record: UsageRecord) -> str:
        return milliseconds(record.duration_us)

    @display(description="First token")  # type: ignore[untyped-decorator]
    def first_token(self, record: UsageRecord) -> str:
        return milliseconds(record.ttft_us)

    @display(description="In the gateway")  # type: ignore[untyped-decorator]
    def overhead(self, record: UsageRecord) -> str:
        return f"{record.overhead_us / 1000:.2f} ms"

    @display(description="Attempts")  # type: ignore[untyped-decorator]
    def attempt_list(self, record: UsageRecord) -> SafeString:
        return _pretty(record.attempts)

    @display(description="Usage as the provider sent it")  # type: ignore[untyped-decorator]
    def raw_usage(self, record: UsageRecord) -> SafeString | str:
        return _pretty(record.usage_raw) if record.usage_raw else "none"


def _breaking(text: str) -> SafeString:
    """A digest is wider than a phone."""
    return format_html('<span class="gw-breaking">{}</span>', text)


def _pretty(value: Any) -> SafeString:
    return format_html('<pre class="gw-code">{}</pre>', json.dumps(value, indent=2, ensure_ascii=False))
