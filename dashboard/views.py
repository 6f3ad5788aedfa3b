"""The dashboard's pages. Each shows a user's own teams alone: what is foreign is answered like what is missing, 404."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing import usage_selectors
from billing.usage_selectors import Usage
from dashboard.charts import charts_of
from dashboard.live import live_figures
from dashboard.periods import PERIODS, begins_off_the_hour, buckets, period_named
from dashboard.report import team_report
from dashboard.teams import ShownTeam, shown_team, shown_teams, team_of_row

if TYPE_CHECKING:
    from billing.models import UsageRecord


TEAMS_PER_PAGE = 50
TEAMS_IN_MENU = 15


@require_safe
@never_cache
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """The user's only team, a list of several, or what to do when there is none."""
    query = request.GET.get("q", "").strip()
    pages = Paginator(shown_teams(request.user, query), TEAMS_PER_PAGE)
    if pages.count == 1 and not query:
        return redirect("dashboard:team", pages.object_list[0][1])
    page = pages.get_page(request.GET.get("page"))
    teams = [team_of_row(row) for row in page.object_list]
    context = {"query": query, "page": page, "rows": _usage_rows(teams), "has_search": query or pages.num_pages > 1}
    return _page(request, "dashboard/home.html", context)


@require_safe
@never_cache
@login_required
def team_page(request: HttpRequest, name: str) -> HttpResponse:
    team = _team_or_404(request, name=name)
    now = timezone.now()
    report = team_report(team, period_named(request.GET.get("period")), now)
    records, older = usage_selectors.recent_requests(team.id)
    charts = charts_of(report)
    context = {
        "team": team,
        "periods": PERIODS,
        "report": report,
        "charts": charts,
        "drawings": [chart.drawing() for chart in charts],
        "live": live_figures(team, now),
        "records": records,
        "older": _older_link(team, records) if older else "",
        "off_the_hour": begins_off_the_hour(team.zone, now),
        "gateway_url": request.build_absolute_uri("/v1"),
    }
    return _page(request, "dashboard/team.html", context)


@require_safe
@never_cache
@login_required
def team_live(request: HttpRequest, name: str) -> HttpResponse:
    """The live figures for pages whose socket cannot connect."""
    return JsonResponse(live_figures(_team_or_404(request, name=name), timezone.now()))


@require_safe
@never_cache
@login_required
def request_list(request: HttpRequest) -> HttpResponse:
    """A team's requests, the newest first, a page at a time."""
    team = _team_or_404(request, name=request.GET.get("team", ""))
    before = _cursor(request.GET.get("before", ""))
    records, older = usage_selectors.recent_requests(team.id, before=before)
    context = {
        "team": team,
        "records": records,
        "older": _older_link(team, records) if older else "",
        "is_first_page": before is None,
    }
    return _page(request, "dashboard/requests.html", context)


@require_safe
@never_cache
@login_required
def request_detail(request: HttpRequest, record_id: str) -> HttpResponse:
    record = usage_selectors.request_record(record_id)
    if record is None:
        raise Http404
    team = _team_or_404(request, id=record.team_id)
    context = {
        "team": team,
        "record": record,
        "token_costs": usage_selectors.token_costs(record),
        "unit_costs": usage_selectors.unit_costs(record),
        "fee": usage_selectors.request_fee(record),
    }
    return _page(request, "dashboard/request.html", context)


@require_safe
@never_cache
@login_required
def playground(request: HttpRequest) -> HttpResponse:
    """A page that asks models with a key that the visitor pastes: the browser does, no key comes here."""
    return _page(request, "dashboard/playground.html", {})


def _page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A page with the menu of teams in its header."""
    rows = list(shown_teams(request.user)[: TEAMS_IN_MENU + 1])
    menu = {"menu_teams": [name for _, name, _ in rows[:TEAMS_IN_MENU]], "menu_has_more": len(rows) > TEAMS_IN_MENU}
    return render(request, template, {**menu, **context})


def _team_or_404(request: HttpRequest, **lookup: Any) -> ShownTeam:
    team = shown_team(request.user, **lookup)
    if team is None:
        raise Http404
    return team


def _usage_rows(teams: list[ShownTeam]) -> list[tuple[ShownTeam, Usage]]:
    """Each team's usage of the last 24 hours, in one query: midnight differs from team to team."""
    span = buckets(PERIODS[0], ZoneInfo("UTC"), timezone.now())
    usage = usage_selectors.usage_by_team([team.id for team in teams], span.starts[0], span.end)
    return [(team, usage.get(team.id, Usage())) for team in teams]


def _older_link(team: ShownTeam, records: list[UsageRecord]) -> str:
    last = records[-1]
    query = urlencode({"team": team.name, "before": f"{last.started_at.isoformat()},{last.id}"})
    return f"{reverse('dashboard:requests')}?{query}"


def _cursor(text: str) -> tuple[datetime, str] | None:
    """Where a page of requests begins. What is not a cursor is the first page, so that a mangled link still opens."""
    moment, _, record_id = text.partition(",")
    try:
        started_at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (started_at, record_id) if started_at.tzinfo else None
