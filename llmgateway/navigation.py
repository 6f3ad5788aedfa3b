"""The admin's side bar and look, for settings. No model is imported here, for settings come first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy

from llmgateway.management_api.scopes import SCOPES


def _may_view(model: str) -> Callable[[HttpRequest], bool]:
    app, name = model.split("_", 1)

    def allowed(request: HttpRequest) -> bool:
        user = request.user
        return user.has_perm(f"{app}.view_{name}") or user.has_perm(f"{app}.change_{name}")

    return allowed


def _list(title: str, icon: str, model: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model}_changelist"),
        "permission": _may_view(model),
    }


def _is_of_deployments(request: HttpRequest) -> bool:
    return request.path.startswith(str(reverse_lazy("admin:providers_deployment_changelist")))


def _is_of_requests(request: HttpRequest) -> bool:
    return request.path.startswith(str(reverse_lazy("admin:billing_usagerecord_changelist")))


def _may_explain(request: HttpRequest) -> bool:
    return request.user.has_perms(SCOPES["explain:read"].permissions)


def _asset(name: str) -> Callable[[HttpRequest], str]:
    return lambda _request: static(name)


NAVIGATION: list[dict[str, Any]] = [
    {
        "items": [
            {"title": "Overview", "icon": "space_dashboard", "link": reverse_lazy("admin:index")},
            {
                "title": "Dashboard",
                "icon": "monitoring",
                "link": reverse_lazy("dashboard:home"),
                # Its address begins every other one, by which the theme would take it for the present page.
                "active": lambda _request: False,
            },
            {
                "title": "Explain",
                "icon": "troubleshoot",
                "link": reverse_lazy("explain"),
                "permission": _may_explain,
            },
            {"title": "Playground", "icon": "forum", "link": reverse_lazy("dashboard:playground")},
        ]
    },
    {
        "title": "Access",
        "separator": True,
        "items": [
            _list("API keys", "key", "llmgateway_apikey"),
            _list("Teams", "groups", "llmgateway_team"),
            _list("Network lists", "lan", "llmgateway_networklist"),
            _list("Rate limits", "speed", "llmgateway_ratelimit"),
            _list("Key sources", "database", "llmgateway_authsource"),
            _list("Banned keys", "block", "llmgateway_bannedkey"),
        ],
    },
    {
        "title": "Models & providers",
        "separator": True,
        "items": [
            _list("Model aliases", "alt_route", "providers_modelalias"),
            {
                **_list("Deployments", "rocket_launch", "providers_deployment"),
                # The page of their health is below theirs.
                "active": lambda request: _is_of_deployments(request) and not request.path.endswith("/health/"),
            },
            {
                "title": "Health",
                "icon": "monitor_heart",
                "link": reverse_lazy("admin:providers_deployment_health"),
                "permission": _may_view("providers_deployment"),
            },
            _list("Catalogue", "menu_book", "providers_catalogueentry"),
            _list("Providers", "hub", "providers_provider"),
            _list("Credentials", "encrypted", "providers_credential"),
        ],
    },
    {
        "title": "Money",
        "separator": True,
        "items": [
            _list("Prices", "sell", "billing_price"),
            _list("Budgets", "savings", "billing_budget"),
            _list("Budget alerts", "notifications", "billing_alert"),
            _list("Usage reporters", "webhook", "billing_usagereporter"),
        ],
    },
    {
        "title": "Records",
        "separator": True,
        "items": [
            {
                **_list("Requests", "receipt_long", "billing_usagerecord"),
                # The page of mirrored ones is below theirs.
                "active": lambda request: _is_of_requests(request) and not request.path.endswith("/mirrors/"),
            },
            {
                "title": "Mirroring",
                "icon": "compare",
                "link": reverse_lazy("admin:billing_usagerecord_mirrors"),
                "permission": _may_view("billing_usagerecord"),
            },
            _list("Deliveries", "outbox", "billing_delivery"),
            _list("Changes", "history", "auditlog_logentry"),
            _list("Log-in attempts", "login", "axes_accessattempt"),
        ],
    },
    {
        "title": "People and settings",
        "separator": True,
        "items": [
            _list("Users", "person", "auth_user"),
            _list("Groups", "group", "auth_group"),
            _list("Management tokens", "token", "management_api_managementtoken"),
            _list("Settings", "tune", "llmgateway_gatewaysettings"),
        ],
    },
]

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "LLM Gateway",
    "SITE_HEADER": "LLM Gateway",
    "SITE_SYMBOL": "hub",
    "SITE_URL": reverse_lazy("dashboard:home"),
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "llmgateway.admin.overview.add_overview",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _asset("dashboard/icon.svg")}],
    "STYLES": [_asset("gateway_admin/admin.css")],
    "SCRIPTS": [_asset("gateway_admin/labels.js"), _asset("gateway_admin/mistakes.js")],
    "SIDEBAR": {"show_search": True, "show_all_applications": False, "navigation": NAVIGATION},
}
