"""Paths below `/manage/api/v1/`."""

from __future__ import annotations

from django.urls import include, path, re_path
from rest_framework.routers import SimpleRouter

from llmgateway.management_api.aliases import ModelViewSet
from llmgateway.management_api.bans import BanViewSet
from llmgateway.management_api.budgets import BudgetViewSet
from llmgateway.management_api.catalogue import CatalogueViewSet
from llmgateway.management_api.credentials import CredentialViewSet
from llmgateway.management_api.deployments import DeploymentViewSet
from llmgateway.management_api.explain import ExplainView
from llmgateway.management_api.health import HealthViewSet
from llmgateway.management_api.keys import KeyViewSet
from llmgateway.management_api.limits import LimitViewSet
from llmgateway.management_api.live_settings import SettingsViewSet
from llmgateway.management_api.memberships import MembershipViewSet
from llmgateway.management_api.mirrors import MirrorsView
from llmgateway.management_api.networks import NetworkViewSet
from llmgateway.management_api.pages import DocsView, NotFoundView, SchemaView
from llmgateway.management_api.prices import PriceViewSet
from llmgateway.management_api.providers import ProviderViewSet
from llmgateway.management_api.reporters import ReporterViewSet
from llmgateway.management_api.sources import SourceViewSet
from llmgateway.management_api.teams import TeamViewSet
from llmgateway.management_api.usage import UsageViewSet

router = SimpleRouter(trailing_slash=False)
router.register("keys", KeyViewSet, "management-key")
router.register("teams", TeamViewSet, "management-team")
router.register("memberships", MembershipViewSet, "management-membership")
router.register("limits", LimitViewSet, "management-limit")
router.register("budgets", BudgetViewSet, "management-budget")
router.register("prices", PriceViewSet, "management-price")
router.register("reporters", ReporterViewSet, "management-reporter")
router.register("usage", UsageViewSet, "management-usage")
router.register("models", ModelViewSet, "management-model")
router.register("deployments", DeploymentViewSet, "management-deployment")
router.register("providers", ProviderViewSet, "management-provider")
router.register("credentials", CredentialViewSet, "management-credential")
router.register("networks", NetworkViewSet, "management-network")
router.register("sources", SourceViewSet, "management-source")
router.register("bans", BanViewSet, "management-ban")
router.register("catalogue", CatalogueViewSet, "management-catalogue")
router.register("health", HealthViewSet, "management-health")

urlpatterns = [
    path("schema", SchemaView.as_view(), name="management-api-schema"),
    path("docs", DocsView.as_view(), name="management-api-docs"),
    path("explain", ExplainView.as_view(), name="management-explain"),
    path(
        "settings",
        SettingsViewSet.as_view({"get": "retrieve", "patch": "partial_update"}),
        name="management-settings",
    ),
    path("mirrors", MirrorsView.as_view(), name="management-mirrors"),
    path("", include(router.urls)),
    re_path("", NotFoundView.as_view()),
]
